// Where the network looked: the class map of the best guess over the slice, coloured as
// edge_runtime/decision/heatmap.py colours it.

import { unbase64 } from "./base64.js";
import { rint } from "./gray.js";

const LONGEST = 2048; // pixels of a picture's longer side on the page
const HUGE = 1e30;
const A = -0.75; // of the cubic kernel (Keys 1981), as OpenCV has it
// OpenCV's colour map "inferno", 256 colours of red, green and blue.
const INFERNO = unbase64(
  "AAAEAQAFAQEGAQEIAgEKAgIMAgIOAwIQBAMSBAMUBQQXBgQZBwUbCAUdCQYfCgciCwckDAgmDQgpDgkrEAktEQowEgoyFAs0FQs3" +
  "Fgs5GAw8GQw+GwxBHAxDHgxFHwxIIQxKIwxMJAxPJgxRKAtTKQtVKwtXLQtZLwpbMQpcMgpeNApfNglhOAliOQljOwlkPQllPglm" +
  "QApnQgpoRApoRQppRwtqSQtqSgxrTAxrTQ1sTw1sUQ5sUg5tVA9tVQ9tVxBuWRBuWhFuXBJuXRJuXxNuYRNuYhRuZBVuZRVuZxZu" +
  "aRZuahdubBhubRhubxlucRluchpudBpudRtudxxteBxteh1tfB1tfR5tfx5sgB9sgiBshCBrhSFrhyFriCJqiiJqjCNpjSNpjyRp" +
  "kCVokiVokyZnlSZnlydmmCdmmihlmylknSlknypjoCpjoitioyxhpSxgpi1gqC5fqS5eqy9erTBdrjBcsDFbsTJaszJatDNZtjRY" +
  "tzVXuTVWujZVvDdUvThTvzlSwDpRwTpQwztPxDxOxj1Nxz5MyD9LykBKy0FJzEJIzkNHz0RG0EVF0kZE00dD1EhC1UpB10s/2Ew+" +
  "2U092k4821A73VE63lI431M34FU24VY14lc041kz5Fox5Vww5l0v514u6GAt6WEr6mMq62Qp62Yo7Gcm7Wkl7mok72wj724h8G8g" +
  "8XEf8XMd8nQc83Yb83gZ9HkY9XsX9X0V9n4U9oAT94IS94QQ+IUP+IcO+IkM+YsL+YwK+Y4J+pAI+pIH+pQH+5YG+5cG+5kG+5sG" +
  "+50H/J8H/KEI/KMJ/KUK/KYM/KgN/KoP/KwR/K4S/LAU/LIW/LQY+7Ya+7gd+7of+7wh+74j+sAm+sIo+sQq+sYt+ccv+cky+cs1" +
  "+M03+M8699E999NA9tVD9tdG9dlJ9dtM9N1P9N9T9OFW8+Na8+Vd8uZh8uhl8upp8ext8e1x8e918fF58vJ98vSC8/WG8/aK9PiO" +
  "9fmS9vqW+Pua+fyd+v2h/P+k",
);

/** A slice of at most LONGEST pixels a side: blocks of pixels are averaged. */
export function shrunk(slice) {
  const { pixels, width, height } = slice;
  const step = Math.ceil(Math.max(width, height) / LONGEST);
  if (step === 1) return slice;
  const [wide, tall] = [Math.max(1, Math.floor(width / step)), Math.max(1, Math.floor(height / step))];
  const [across, down] = [Math.min(step, width), Math.min(step, height)];
  const out = new Uint8Array(wide * tall);
  for (let y = 0; y < tall; y++) {
    for (let x = 0; x < wide; x++) {
      let sum = 0;
      for (let i = 0; i < down; i++) {
        for (let j = 0; j < across; j++) sum += pixels[(y * step + i) * width + x * step + j];
      }
      out[y * wide + x] = rint(sum / (down * across));
    }
  }
  return { pixels: out, width: wide, height: tall };
}

/** The colours of a slice: four bytes a pixel. */
export function plain({ pixels, width, height }) {
  const rgba = new Uint8ClampedArray(4 * width * height);
  pixels.forEach((level, i) => rgba.set([level, level, level, 255], 4 * i));
  return rgba;
}

/**
 * As `plain`, bright where most speaks for the class.
 *
 * @param {{values: number[], side: number, box: number[]}} heat of `Classifier.classify`.
 */
export function overlay(slice, { values, side, box }) {
  const { width, height } = slice;
  const [left, top, right, bottom] = box;
  const most = Math.max(...values.map(Math.abs));
  const map = most > HUGE ? values.map((value) => value / most) : values;
  const across = cubic(width, side, left, right);
  const down = cubic(height, side, top, bottom);
  const fine = new Float32Array(width * height);
  const row = new Float64Array(side);
  let [least, greatest] = [Infinity, -Infinity];
  for (let y = 0; y < height; y++) {
    for (let j = 0; j < side; j++) row[j] = down[y].reduce((sum, [i, weight]) => sum + weight * map[i * side + j], 0);
    for (let x = 0; x < width; x++) {
      const value = across[x].reduce((sum, [j, weight]) => sum + weight * row[j], 0);
      fine[y * width + x] = value;
      if (value < least) least = value;
      if (value > greatest) greatest = value;
    }
  }
  const rgba = plain(slice);
  const spread = greatest - least;
  const inside = (share, side) => Math.min(Math.max(rint(share * side), 0), side);
  for (let y = inside(top, height); y < inside(bottom, height); y++) {
    for (let x = inside(left, width); x < inside(right, width); x++) {
      const at = y * width + x;
      const level = spread > 0 ? rint(((fine[at] - least) / spread) * 255) : 0;
      for (let c = 0; c < 3; c++) {
        rgba[4 * at + c] = rint(0.6 * slice.pixels[at] + 0.4 * INFERNO[3 * level + c]);
      }
    }
  }
  return rgba;
}

/** For the centre of each pixel the four cells of the map around it, and their weights; beyond its
 * edge the map goes on as it ends. */
function cubic(pixels, cells, first, last) {
  return Array.from({ length: pixels }, (_, i) => {
    const place = (((i + 0.5) / pixels - first) / (last - first)) * cells - 0.5;
    const base = Math.floor(place);
    return [-1, 0, 1, 2].map((k) => [
      Math.min(Math.max(base + k, 0), cells - 1),
      kernel(Math.abs(place - base - k)),
    ]);
  });
}

function kernel(x) {
  if (x <= 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  return x < 2 ? ((A * x - 5 * A) * x + 8 * A) * x - 4 * A : 0;
}
