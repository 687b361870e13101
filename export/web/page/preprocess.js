// From a slice to the model's input, the same bytes as edge_runtime/imaging/preprocess.py: the head
// is cut out, the slice is halved and scaled in whole numbers, the window is applied.

import { InputError, ModelError } from "./errors.js";
import { rint } from "./gray.js";

const [MAX_RATIO, NARROW] = [16, 4096]; // of the sides; pixels from which on that counts

/** Why this page cannot prepare slices for a model; null where it can. */
export function unsupported({ resize, denoise, contrast }) {
  if (resize !== "pyramid") return `resize ${resize}`;
  if (denoise !== null) return `denoise ${denoise}`;
  return contrast === null ? null : `contrast ${contrast}`;
}

/** The square input, `size`×`size` gray levels, and where it lies in the slice: left, top, right and
 * bottom as fractions of its sides. */
export function preprocess(slice, options) {
  const reason = unsupported(options);
  if (reason) throw new ModelError(`a model that needs ${reason} is not supported here`);
  const { width, height } = slice;
  if (Math.max(width, height) > Math.max(MAX_RATIO * Math.min(width, height), NARROW)) {
    throw new InputError(`${width}x${height} pixels: too narrow for a slice`);
  }
  const { size, crop, window } = options;
  const part = partOf(slice, size, crop);
  const [wide, tall] = innerSize(part.slice, size, crop);
  const scaled = part.slice.width === wide && part.slice.height === tall ? part.slice : resized(part.slice, wide, tall);
  const input = padded(scaled, size);
  return { pixels: window ? windowed(input, window) : input.pixels, box: boxOf(part, slice, size, wide, tall) };
}

function boxOf(part, slice, size, wide, tall) {
  const ends = [
    [part.left, part.slice.width, wide, part.across, slice.width],
    [part.top, part.slice.height, tall, part.down, slice.height],
  ].map(([at, pixels, inner, step, side]) => {
    const scale = pixels / inner; // of the level's pixels for one of the input
    const first = at - ((size - inner) >> 1) * scale;
    return [(first * step) / side, ((first + size * scale) * step) / side];
  });
  return [ends[0][0], ends[1][0], ends[0][1], ends[1][1]];
}

/** What of a level of the pyramid becomes the input, as in edge_runtime/imaging/pyramid.py. */
function partOf(slice, size, crop) {
  if (crop !== "head") return wholeOf(slice, size);
  const levels = [slice];
  let last = slice;
  while (Math.max(last.width, last.height) >= 2 * size && Math.min(last.width, last.height) > 1) {
    last = halved(last, 2, 2);
    levels.push(last);
  }
  let [top, bottom, left, right] = headBox(last);
  while (levels.length > 1 && Math.max(bottom - top, right - left) < size) {
    levels.pop();
    [top, bottom, left, right] = [2 * top, 2 * bottom, 2 * left, 2 * right];
  }
  const step = 2 ** (levels.length - 1);
  const cut = cutOut(levels.at(-1), top, bottom, left, right);
  return { slice: cut, top, left, down: step, across: step };
}

function wholeOf(slice, size) {
  let [down, across] = [1, 1];
  while (Math.max(slice.width, slice.height) >= 2 * size) {
    const [wide, tall] = [slice.width >= 2 * size ? 2 : 1, slice.height >= 2 * size ? 2 : 1];
    slice = halved(slice, wide, tall);
    [across, down] = [across * wide, down * tall];
  }
  return { slice, top: 0, left: 0, down, across };
}

function innerSize({ width, height }, size, crop) {
  if (crop !== "head") return [size, size];
  const longer = Math.max(width, height);
  return [width, height].map((side) => Math.max(1, Math.floor((2 * side * size + longer) / (2 * longer))));
}

/** The means of `wide`×`tall` pixels (1 or 2 each), halves rounded up; an odd last row or column is
 * left out. */
function halved({ pixels, width, height }, wide, tall) {
  const [w, h] = [Math.floor(width / wide), Math.floor(height / tall)];
  const out = new Uint8Array(w * h);
  const shift = (wide === 2 ? 1 : 0) + (tall === 2 ? 1 : 0);
  const half = shift ? 1 << (shift - 1) : 0;
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const at = y * tall * width + x * wide;
      let sum = pixels[at];
      if (wide === 2) sum += pixels[at + 1];
      if (tall === 2) sum += pixels[at + width];
      if (shift === 2) sum += pixels[at + width + 1];
      out[y * w + x] = (sum + half) >> shift;
    }
  }
  return { pixels: out, width: w, height: h };
}

function cutOut({ pixels, width }, top, bottom, left, right) {
  const out = new Uint8Array((bottom - top) * (right - left));
  for (let y = top; y < bottom; y++) {
    out.set(pixels.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  }
  return { pixels: out, width: right - left, height: bottom - top };
}

/** OpenCV's INTER_LINEAR_EXACT: weights of 8 bits along each axis, in whole numbers. */
export function resized({ pixels, width, height }, wide, tall) {
  const across = weights(width, wide);
  const down = weights(height, tall);
  const rows = new Uint16Array(height * wide);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < wide; x++) {
      const { first, second, low, high } = across[x];
      rows[y * wide + x] = low * pixels[y * width + first] + high * pixels[y * width + second];
    }
  }
  const out = new Uint8Array(tall * wide);
  for (let y = 0; y < tall; y++) {
    const { first, second, low, high } = down[y];
    for (let x = 0; x < wide; x++) {
      out[y * wide + x] = (low * rows[first * wide + x] + high * rows[second * wide + x] + 32768) >>> 16;
    }
  }
  return { pixels: out, width: wide, height: tall };
}

/** For each pixel of the result the two that it lies between, and their weights of 256. */
function weights(from, to) {
  const scale = 1 / (to / from);
  return Array.from({ length: to }, (_, i) => {
    const place = scale * (i + 0.5) - 0.5;
    const first = Math.floor(place);
    if (first < 0 || from === 1) return { first: 0, second: 0, low: 256, high: 0 };
    if (first >= from - 1) return { first: from - 1, second: from - 1, low: 256, high: 0 };
    const high = rint((place - first) * 256);
    return { first, second: first + 1, low: 256 - high, high };
  });
}

function padded({ pixels, width, height }, size) {
  if (width === size && height === size) return { pixels, width, height };
  const out = new Uint8Array(size * size);
  const [top, left] = [(size - height) >> 1, (size - width) >> 1];
  for (let y = 0; y < height; y++) {
    out.set(pixels.subarray(y * width, (y + 1) * width), (top + y) * size + left);
  }
  return { pixels: out, width: size, height: size };
}

/** Percentiles become black and white; in floats of 32 bits, as numpy computes the table. */
function windowed(input, window) {
  const [low, high] = percentiles(input, 1, window);
  const table = new Uint8Array(256);
  if (high > low) {
    const factor = Math.fround(255 / (high - low));
    for (let level = 0; level < 256; level++) {
      const value = Math.fround((level - low) * factor);
      table[level] = rint(Math.min(Math.max(value, 0), 255));
    }
  }
  return input.pixels.map((level) => table[level]);
}

/** The gray levels at or below which the wanted shares (percent) of every `step`-th pixel lie. */
function percentiles({ pixels, width, height }, step, wanted) {
  const counts = new Uint32Array(256);
  let size = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step, size++) counts[pixels[y * width + x]] += 1;
  }
  return wanted.map((share) => {
    const least = Math.ceil((share / 100) * size);
    let [level, reached] = [0, counts[0]];
    while (reached < least && level < 255) reached += counts[++level];
    return level;
  });
}

/** First and last row and column that hold the head, as edge_runtime/imaging/head.py finds them:
 * [top, bottom, left, right], the ends not included. */
function headBox(slice) {
  const { pixels, width, height } = slice;
  const step = Math.max(1, Math.floor(Math.min(height, width) / 64));
  const bright = percentiles(slice, step, [99])[0];
  const level = Math.floor(Math.max(bright / 8, 4));
  const [rows, columns] = [new Uint32Array(height), new Uint32Array(width)];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (pixels[y * width + x] > level) {
        rows[y] += 1;
        columns[x] += 1;
      }
    }
  }
  const [tall, wide] = [extent(rows, width), extent(columns, height)];
  return tall && wide ? [...tall, ...wide] : [0, height, 0, width];
}

function extent(counts, across) {
  const margin = Math.floor(counts.length / 50);
  const least = Math.max(1, 0.05 * across);
  let [first, last] = [margin, counts.length - margin - 1];
  while (first <= last && counts[first] < least) first += 1;
  while (first < last && counts[last] < least) last -= 1;
  return first > last || last + 1 - first < counts.length / 4 ? null : [first, last + 1];
}
