// JPEG to gray by libjpeg-turbo, as OpenCV does it: the luminance that the file stores, untouched by
// colour profiles. A browser's own decoder gives other values, and each browser its own.

import { InputError } from "./errors.js";
import { turned } from "./gray.js";

const TJPF_GRAY = 6;
const START = [0xff, 0xd8]; // a second start of image, which is an error,
const END = [0xff, 0xd9]; // and an end of image, with which what is there is all

/** A function like `decodePng`, from the bytes of libjpeg-turbo. */
export async function jpegDecoder(wasm) {
  const module = await WebAssembly.compile(wasm);
  return (bytes, header) => decodeJpeg(module, bytes, header);
}

async function decodeJpeg(module, bytes, header) {
  const { width, height, turn, isProgressive } = header;
  // libjpeg makes up what a truncated file lacks, OpenCV refuses it: so here something follows that
  // no decoder may meet. Where nothing but the mark of the end was missing, all is well.
  let picture = await run(module, bytes, START, width, height);
  if (!picture && !isProgressive) {
    picture = await run(module, bytes, END, width, height, true);
  }
  if (!picture) throw new InputError("truncated or damaged jpeg image");
  return turned({ pixels: picture, width, height }, turn);
}

/** The gray levels, or null; an instance of its own for each, since an error leaves one unusable. */
async function run(module, bytes, behind, width, height, isStrict = false) {
  const stop = () => { throw new Error("libjpeg-turbo gave up"); };
  const { exports } = await WebAssembly.instantiate(module, {
    env: { setjmp: () => 0, longjmp: stop },
    wasi_snapshot_preview1: {
      environ_sizes_get: () => 0, environ_get: stop, proc_exit: stop, fd_close: stop, fd_seek: stop, fd_write: () => 0,
    },
  });
  try {
    const size = bytes.length + behind.length;
    const from = exports.malloc(size);
    const to = exports.malloc(width * height);
    const told = exports.malloc(16);
    const turbo = exports.tjInitDecompress();
    if (!from || !to || !told || !turbo) return null;
    const memory = new Uint8Array(exports.memory.buffer);
    memory.set(bytes, from);
    memory.set(behind, from + bytes.length);
    if (exports.tjDecompressHeader3(turbo, from, size, told, told + 4, told + 8, told + 12)) return null;
    const [wide, tall] = new Uint32Array(exports.memory.buffer, told, 2);
    if (wide !== width || tall !== height) return null;
    // What is damaged in the middle is decoded with a warning; OpenCV passes over that, too.
    const warned = exports.tjDecompress2(turbo, from, size, to, width, width, height, TJPF_GRAY, 0) !== 0;
    if (warned && isStrict) return null;
    return new Uint8Array(exports.memory.buffer, to, width * height).slice();
  } catch {
    return null;
  }
}
