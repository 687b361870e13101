// What a picture is, its size and its cost, told by its first bytes: the rules and words of
// edge_runtime/imaging/{kinds,headers,decode}.py, for the two formats that this page decodes.

import { InputError } from "./errors.js";

const MIB = 1 << 20;
/** As edge_runtime/imaging/limits.py has them. */
export const LIMITS = { bytes: 256 * MIB, pixels: 50_000_000, memory: 128 * MIB };
const MAX_SCANS = 100; // of a JPEG
const MAX_SCANNED = 500_000_000; // pixels times scans
const MAX_SEGMENTS = 1000;
const MAX_CHUNKS = 65_536; // of a PNG
const STRAY = 65_536; // bytes between two segments of a JPEG that are passed over
const LARGE = MIB;
const NARROW = 4096; // pixels
const SAMPLE = 1_000_000;
const BAND = 1 << 18;

const ascii = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));

// What btc-edge reads and this page does not; the first that fits is it.
const OTHERS = [
  ["DICOM", (b) => ascii(b, 128, 132) === "DICM"],
  ["NIfTI", (b) => ["n+1\0", "ni1\0"].includes(ascii(b, 344, 348)) || ascii(b, 4, 8) === "n+2\0"],
  ["BMP", (b) => ascii(b, 0, 2) === "BM" && [12, 40, 52, 56, 64, 108, 124].includes(b[14])],
  ["TIFF", (b) => ["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(ascii(b, 0, 4))],
  ["WebP", (b) => ascii(b, 0, 4) === "RIFF" && ascii(b, 8, 12) === "WEBP"],
  ["GIF", (b) => ["GIF87a", "GIF89a"].includes(ascii(b, 0, 6))],
];
const JPEG = "\xff\xd8\xff";
const PNG = "\x89PNG\r\n\x1a\n";

/**
 * The header of a picture that may be decoded. What is damaged, not supported or too costly is
 * refused before a decoder runs.
 *
 * @returns {{format: string, width: number, height: number}} and more of its own format.
 * @throws {InputError}
 */
export function checkedHeader(bytes) {
  if (!bytes.length) throw new InputError("empty file");
  if (bytes.length > LIMITS.bytes) {
    throw new InputError(`larger than the limit of ${LIMITS.bytes / MIB} MiB`);
  }
  const header = readHeader(bytes);
  const { format, width, height } = header;
  if (!width || !height) throw new InputError(`truncated or damaged ${format} image`);
  const pixels = width * height;
  if (pixels > LIMITS.pixels) {
    const most = LIMITS.pixels.toLocaleString("en-US");
    throw new InputError(`${width}x${height} pixels: over the limit of ${most} pixels`);
  }
  if (header.unsupported) throw new InputError(`not supported${header.here ?? ""}: ${header.unsupported}`);
  const need = decodeMemory(header);
  if (need > LIMITS.memory) {
    throw new InputError(
      `${width}x${height} pixels of this kind need ${Math.ceil(need / MIB)} MiB to decode: ` +
        `over the limit of ${LIMITS.memory / MIB} MiB`,
    );
  }
  const { scans = 1 } = header;
  if (scans > 1 && (scans > MAX_SCANS || scans * pixels > MAX_SCANNED)) {
    throw new InputError(`a JPEG of ${scans} scans: more than are decoded at this size`);
  }
  return header;
}

function readHeader(bytes) {
  const start = ascii(bytes, 0, 8);
  const read = start.startsWith(JPEG) ? jpegHeader : start === PNG ? pngHeader : null;
  if (read) {
    try {
      return read(bytes) ?? damaged(read);
    } catch (error) {
      if (error instanceof RangeError) return damaged(read); // it ends too early
      throw error;
    }
  }
  const other = OTHERS.find(([, fits]) => fits(bytes));
  if (other) {
    const words = `not supported here: a ${other[0]} file; btc-edge and Classifier read it`;
    throw new InputError(words);
  }
  throw new InputError("not an image in a supported format (jpeg, png)");
}

const damaged = (read) => ({ format: read === jpegHeader ? "jpeg" : "png", width: 0, height: 0 });

/** Bytes that a picture takes at most to become a slice and then a model's input. */
function decodeMemory({ width, height, depth = 1, bits = 8, memory }) {
  const pixels = width * height;
  const each = bits <= 8 ? 0 : 12;
  const ranged = pixels * depth + each * Math.min(pixels, Math.floor((9 * SAMPLE) / 4));
  const scaled = each ? pixels * (depth + 1) + 16 * BAND : 0;
  const follows = 2 * pixels + Math.min(Math.max(width, height), NARROW) ** 2;
  return Math.max(memory, ranged, scaled, follows);
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const CHANNELS = { 0: 1, 2: 3, 3: 3, 4: 2, 6: 4 }; // by colour type
const KEPT = ["IHDR", "PLTE", "IDAT", "IEND"];

function pngHeader(bytes) {
  const view = viewOf(bytes);
  if (ascii(bytes, 12, 16) !== "IHDR") return null;
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  const [bits, colour, interlaced] = [bytes[24], bytes[25], bytes[28]];
  const depth = bits > 8 ? 2 : 1;
  const chunks = [];
  let [turn, more, unsupported] = [1, false, ""];
  for (let at = 8; ; ) {
    if (at + 12 > bytes.length) return null;
    if (chunks.length === MAX_CHUNKS) {
      unsupported = `a PNG of more than ${MAX_CHUNKS.toLocaleString("en-US")} chunks`;
      break;
    }
    const [length, kind] = [view.getUint32(at), ascii(bytes, at + 4, at + 8)];
    chunks.push({ kind, at: at + 8, length });
    if (kind === "IEND") break;
    if (kind === "eXIf") turn = orientation(bytes.subarray(at + 8, at + 8 + length));
    more ||= !KEPT.includes(kind);
    at += 12 + length;
  }
  const turned = chunks.some(({ kind }) => kind === "eXIf");
  const memory = width * height * depth * (turned ? 2 : 1) + 32 * width + (more ? bytes.length : 0);
  const channels = CHANNELS[colour] ?? 0;
  return { format: "png", width, height, bits, colour, channels, interlaced, depth, chunks, turn, memory, unsupported };
}

// Start-of-frame markers; C4 (tables), C8 (reserved) and CC (arithmetic conditioning) are not.
const isFrame = (marker) =>
  (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) || marker === 0xf7;
const RARE = { 0xc3: "a lossless JPEG", 0xc9: "an arithmetic-coded JPEG", 0xca: "an arithmetic-coded JPEG", 0xcb: "a lossless JPEG" };

function jpegHeader(bytes) {
  const view = viewOf(bytes);
  let [at, frame, turn, seen] = [2, null, 1, false];
  for (let segments = 0; segments < MAX_SEGMENTS; segments++) {
    let marker = view.getUint16(at);
    let length = view.getUint16(at + 2);
    if (!(marker > 0xff00 && marker < 0xffff)) {
      at = nextMarker(bytes, at);
      if (at < 0) return null;
      marker = view.getUint16(at);
      length = view.getUint16(at + 2);
    }
    const code = marker & 0xff;
    if (isFrame(code)) {
      if (frame) return null;
      frame = { code, at: at + 2 };
    } else if (code === 0xda) {
      return frame && jpegStart(bytes, view, frame, at + 2, turn, seen);
    } else if (code === 0xe1 && ascii(bytes, at + 4, at + 10) === "Exif\0\0" && !seen) {
      seen = true;
      turn = orientation(bytes.subarray(at + 10, at + 2 + length));
    } else if (code === 0x01 || (code >= 0xd0 && code <= 0xd8)) {
      length = 0; // markers without one
    }
    at += 2 + length;
  }
  const words = `a JPEG of more than ${MAX_SEGMENTS.toLocaleString("en-US")} segments before the picture`;
  return { format: "jpeg", width: 1, height: 1, memory: 0, unsupported: words };
}

function nextMarker(bytes, from) {
  const end = Math.min(from + STRAY, bytes.length) - 1;
  for (let at = from; at < end; at++) {
    if (bytes[at] === 0xff && bytes[at + 1] !== 0 && bytes[at + 1] !== 0xff) return at;
  }
  return -1;
}

/** What a start of frame and the place of the first scan tell. */
function jpegStart(bytes, view, { code, at }, scan, turn, turned) {
  const [bits, height, width, channels] =
    [view.getUint8(at + 2), view.getUint16(at + 3), view.getUint16(at + 5), view.getUint8(at + 7)];
  let [unsupported, here] = ["", ""];
  if (code === 0xf7) unsupported = "a JPEG-LS picture";
  else if (bits !== 8) unsupported = `a JPEG of ${bits} bits a sample`;
  else if (![1, 3, 4].includes(channels)) unsupported = `a JPEG of ${channels} components`;
  else if (![0xc0, 0xc1, 0xc2].includes(code)) {
    unsupported = RARE[code] ?? "a hierarchical JPEG";
    here = code in RARE ? " here" : "";
  } else if (channels === 4) {
    [unsupported, here] = ["a JPEG of 4 components; btc-edge and Classifier read it", " here"];
  }
  let kept = bytes.length;
  if (kept > LARGE) kept = Math.min(kept, (count(bytes, 0xe1) + count(bytes, 0xe2)) << 16);
  let [memory, scans] = [width * height * (turned ? 2 : 1) + 256 * width + kept, 1];
  const isProgressive = ![0xc0, 0xc1, 0xc9].includes(code);
  if (isProgressive || view.getUint8(scan + 2) < channels) {
    const factors = Array.from({ length: channels }, (_, i) => view.getUint8(at + 9 + 3 * i));
    const across = Math.max(0, ...factors.map((factor) => factor >> 4));
    const down = Math.max(0, ...factors.map((factor) => factor & 15));
    if (!across || !down) return null;
    scans = count(bytes, 0xda);
    const units = Math.ceil(width / (8 * across)) * Math.ceil(height / (8 * down));
    memory += units * 128 * factors.reduce((sum, factor) => sum + (factor >> 4) * (factor & 15), 0);
  }
  return { format: "jpeg", width, height, channels, memory, scans, isProgressive, turn, unsupported, here };
}

function count(bytes, code) {
  let found = 0;
  for (let at = bytes.indexOf(0xff); at >= 0; at = bytes.indexOf(0xff, at + 1)) {
    if (bytes[at + 1] === code) found += 1;
  }
  return found;
}

/** The tag Orientation of EXIF, which is a TIFF without a picture; 1 where it is not told. */
function orientation(exif) {
  const view = viewOf(exif);
  const start = ascii(exif, 0, 4);
  if (start !== "II*\0" && start !== "MM\0*") return 1;
  const little = start[0] === "I";
  try {
    const first = view.getUint32(4, little);
    const entries = view.getUint16(first, little);
    for (let i = 0; i < entries; i++) {
      const at = first + 2 + 12 * i;
      if (view.getUint16(at, little) === 274) return view.getUint16(at + 8, little);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return 1;
}
