// JPEG to gray by libjpeg-turbo, as OpenCV does it: the luminance that the file stores, untouched by
// colour profiles. A browser's own decoder gives other values, and each browser its own.

import { InputError } from "./errors.js";
import { turned } from "./gray.js";

const TJPF_GRAY = 6;
// Behind a file, as much as the longest segment that may be cut off takes: starts of an image, which
// no decoder takes where it looks for an end.
const BEHIND = Uint8Array.from({ length: 70_000 }, (_, at) => (at % 2 ? 0xd8 : 0xff));

/** A function like `decodePng`, from the bytes of libjpeg-turbo. */
export async function jpegDecoder(wasm) {
  const module = await WebAssembly.compile(wasm);
  return (bytes, header) => decodeJpeg(module, bytes, header);
}

function decodeJpeg(module, bytes, { width, height, turn }) {
  const pixels = run(module, bytes, width, height);
  if (!pixels) throw new InputError("truncated or damaged jpeg image");
  return turned({ pixels, width, height }, turn);
}

/** The gray levels, or null; an instance of its own for each, since an error leaves one unusable. */
function run(module, bytes, width, height) {
  const stop = () => { throw new Error("libjpeg-turbo gave up"); };
  const { exports } = new WebAssembly.Instance(module, {
    env: { setjmp: () => 0, longjmp: stop },
    wasi_snapshot_preview1: {
      environ_sizes_get: () => 0, environ_get: stop, proc_exit: stop, fd_close: stop, fd_seek: stop, fd_write: () => 0,
    },
  });
  try {
    const size = bytes.length + BEHIND.length;
    const from = exports.malloc(size);
    const to = exports.malloc(width * height);
    const told = exports.malloc(16);
    const turbo = exports.tjInitDecompress();
    if (!from || !to || !told || !turbo) return null;
    const memory = new Uint8Array(exports.memory.buffer);
    memory.set(bytes, from);
    memory.set(BEHIND, from + bytes.length);
    if (exports.tjDecompressHeader3(turbo, from, size, told, told + 4, told + 8, told + 12)) return null;
    const [wide, tall] = new Uint32Array(exports.memory.buffer, told, 2);
    if (wide !== width || tall !== height) return null;
    // It does not throw where the middle is damaged, but says so; OpenCV passes over that, too. libjpeg
    // makes up what a truncated file lacks, which OpenCV refuses: here it meets what stands behind.
    exports.tjDecompress2(turbo, from, size, to, width, width, height, TJPF_GRAY, 0);
    return new Uint8Array(exports.memory.buffer, to, width * height).slice();
  } catch {
    return null;
  }
}
