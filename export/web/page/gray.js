// Slices: {pixels: Uint8Array, width, height}, gray levels 0-255 row by row; how a picture of 16
// bits becomes one, and how one is turned. As edge_runtime/imaging/{gray,geometry}.py.

const SAMPLE = 1_000_000; // values that a value range is taken from
const PERCENTILES = [0.1, 99.9]; // that become black and white

/** To the nearest whole number, halves to the even one, as C and numpy round. */
export function rint(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 ? low + 1 : low;
}

/** A slice of values of 16 bits, mapped so that their robust range becomes 0-255. */
export function fromDeep({ pixels, width, height }) {
  const [low, high] = robustRange(pixels, width, height);
  const gray = new Uint8Array(pixels.length);
  if (high <= low) return { pixels: gray, width, height };
  // In floats of 32 bits, as numpy computes it.
  const f = Math.fround;
  const [least, most, half] = [f(low), f(high), f(low / 2)];
  const span = f(high / 2 - low / 2);
  for (let i = 0; i < pixels.length; i++) {
    const clipped = Math.min(Math.max(pixels[i], least), most);
    const level = f(f(f(f(clipped / 2) - half) / span) * 255);
    gray[i] = Math.min(Math.max(rint(level), 0), 255);
  }
  return { pixels: gray, width, height };
}

function robustRange(pixels, width, height) {
  const step = Math.max(1, rint(Math.sqrt(pixels.length / SAMPLE)));
  const counts = new Uint32Array(1 << 16);
  let size = 0;
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step, size++) counts[pixels[y * width + x]] += 1;
  }
  const [low, high] = PERCENTILES.map((percent) => quantile(counts, (percent / 100) * (size - 1)));
  if (low < high) return [low, high];
  return pixels.reduce(([least, most], v) => [Math.min(least, v), Math.max(most, v)], [65535, 0]);
}

/** The value at a place between two of the sorted ones, linear between them. */
function quantile(counts, place) {
  const [below, above] = [Math.floor(place), Math.ceil(place)].map((rank) => {
    let [value, reached] = [0, counts[0]];
    while (reached <= rank) reached += counts[++value];
    return value;
  });
  return below + (above - below) * (place % 1);
}

/** A slice as the tag Orientation (TIFF 6.0, page 36) says: where row 0 and column 0 are. */
export function turned(slice, turn) {
  if (!(turn >= 2 && turn <= 8)) return slice;
  const { pixels, width, height } = slice;
  const swap = turn >= 5;
  const [wide, tall] = swap ? [height, width] : [width, height];
  const out = new pixels.constructor(pixels.length);
  const [flipRows, flipColumns] = [[3, 4, 7, 8].includes(turn), [2, 3, 6, 7].includes(turn)];
  for (let y = 0; y < tall; y++) {
    const row = flipRows ? tall - 1 - y : y;
    for (let x = 0; x < wide; x++) {
      const column = flipColumns ? wide - 1 - x : x;
      out[y * wide + x] = pixels[swap ? column * width + row : row * width + column];
    }
  }
  return { pixels: out, width: wide, height: tall };
}
