// PNG (W3C, Portable Network Graphics) to gray, as OpenCV and libpng do it: colour is weighed by
// libpng's whole numbers, of stored values; transparency, gamma and profiles are ignored.

import { crc32 } from "./zip.js";
import { InputError } from "./errors.js";
import { fromDeep, turned } from "./gray.js";
import { inflate } from "./inflate.js";

const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const [RED, GREEN, BLUE] = [9797, 19234, 3737]; // of 32768
// First column and row, and steps, of each pass of an interlaced picture (Adam7).
const PASSES = [
  [0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2],
];

/**
 * A slice.
 *
 * @param {Uint8Array} bytes
 * @param {object} header of `checkedHeader`.
 * @throws {InputError} truncated or damaged.
 */
export async function decodePng(bytes, header) {
  const { width, height, bits, colour, channels, interlaced, turn } = header;
  try {
    if (!DEPTHS[colour]?.includes(bits) || interlaced > 1 || bytes[26] || bytes[27]) throw new Error("header");
    const passes = passesOf(width, height, interlaced).map((pass) => ({
      ...pass, stride: Math.ceil((pass.wide * stored(colour, channels) * bits) / 8),
    }));
    const size = passes.reduce((sum, { tall, stride }) => sum + tall * (stride + 1), 0);
    const { packed, palette } = contents(bytes, header);
    const raw = await inflate(packed, "deflate", size);
    if (raw.length !== size) throw new Error("size");
    const pixels = bits === 16 ? new Uint16Array(width * height) : new Uint8Array(width * height);
    let at = 0;
    for (const pass of passes) {
      unfilter(raw, at, pass, Math.max(1, (stored(colour, channels) * bits) >> 3));
      spread(raw, at, pass, header, palette, pixels);
      at += pass.tall * (pass.stride + 1);
    }
    const picture = { pixels, width, height };
    return turned(bits === 16 ? fromDeep(picture) : picture, turn);
  } catch {
    throw new InputError("truncated or damaged png image");
  }
}

/** Stored samples of a pixel: one where it is an index into a palette. */
const stored = (colour, channels) => (colour === 3 ? 1 : channels);

function passesOf(width, height, interlaced) {
  const passes = interlaced ? PASSES : [[0, 0, 1, 1]];
  return passes
    .map(([left, top, across, down]) => ({
      left, top, across, down,
      wide: Math.ceil((width - left) / across),
      tall: Math.ceil((height - top) / down),
    }))
    .filter(({ wide, tall }) => wide > 0 && tall > 0);
}

/** The packed picture and the palette's grays. Check sums are compared, as libpng does it: but for
 * that of the last chunk, which holds nothing. */
function contents(bytes, { colour, bits, chunks }) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let palette = null;
  for (const { kind, at, length } of chunks) {
    if (!["IHDR", "PLTE", "IDAT", "IEND"].includes(kind)) continue;
    if (at + length + 4 > bytes.length) throw new Error("end");
    if (kind !== "IEND" && crc32(bytes.subarray(at - 4, at + length)) !== view.getUint32(at + length)) throw new Error("check sum");
    const content = bytes.subarray(at, at + length);
    if (kind === "IDAT") parts.push(content);
    if (kind === "PLTE" && colour === 3) palette = grays(content);
  }
  if (colour === 3 && (!palette || palette.length > 1 << bits)) throw new Error("palette");
  const packed = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    packed.set(part, place);
    place += part.length;
  }
  return { packed, palette };
}

function grays(content) {
  if (content.length % 3 || !content.length) throw new Error("palette");
  return Uint8Array.from({ length: content.length / 3 }, (_, i) => {
    const [red, green, blue] = content.subarray(3 * i, 3 * i + 3);
    return (red * RED + green * GREEN + blue * BLUE) >> 15;
  });
}

/** Undo the filters (section 9.2) of a pass, in place; `step` is the bytes of a pixel. */
function unfilter(raw, start, { tall, stride }, step) {
  for (let y = 0; y < tall; y++) {
    const row = start + y * (stride + 1);
    const kind = raw[row];
    const now = row + 1;
    const before = now - stride - 1; // the row above
    for (let i = 0; i < stride; i++) {
      const left = i < step ? 0 : raw[now + i - step];
      const up = y ? raw[before + i] : 0;
      if (kind === 1) raw[now + i] += left;
      else if (kind === 2) raw[now + i] += up;
      else if (kind === 3) raw[now + i] += (left + up) >> 1;
      else if (kind === 4) raw[now + i] += paeth(left, up, i < step || !y ? 0 : raw[before + i - step]);
      else if (kind !== 0) throw new Error("filter");
    }
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

/** The grays of a pass to their places. */
function spread(raw, start, pass, { width, bits, colour, channels }, palette, pixels) {
  const { left, top, across, down, wide, tall, stride } = pass;
  const samples = stored(colour, channels);
  const white = 255 / ((1 << Math.min(bits, 8)) - 1);
  const sample = sampler(raw, bits);
  for (let y = 0; y < tall; y++) {
    const row = start + y * (stride + 1) + 1;
    const to = (top + y * down) * width + left;
    for (let x = 0; x < wide; x++) {
      const at = x * samples;
      let gray = sample(row, at);
      if (colour === 3) gray = palette[gray] ?? 0; // as libpng: black beyond the palette
      else if (channels > 2) gray = luma(gray, sample(row, at + 1), sample(row, at + 2), bits);
      else if (bits < 8) gray *= white;
      pixels[to + x * across] = gray;
    }
  }
}

function sampler(raw, bits) {
  if (bits === 8) return (row, at) => raw[row + at];
  if (bits === 16) return (row, at) => (raw[row + 2 * at] << 8) | raw[row + 2 * at + 1];
  const [each, mask] = [8 / bits, (1 << bits) - 1];
  return (row, at) => (raw[row + Math.floor(at / each)] >> (8 - bits * ((at % each) + 1))) & mask;
}

/** libpng cuts off what 8 bits do not hold, and rounds in 16. */
function luma(red, green, blue, bits) {
  const sum = red * RED + green * GREEN + blue * BLUE;
  return bits === 16 ? Math.floor((sum + 16384) / 32768) : sum >> 15;
}
