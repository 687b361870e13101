// A zip whose members are stored as they are (PKWARE's APPNOTE, 4.3.7, 4.3.12 and 4.3.16), without
// Zip64. Members stay where they are until the zip is sent: only their check sums are computed here.

const MOST_MEMBERS = 0xffff;
const MOST_BYTES = 0xffffffff;
const FIRST_OF_1980 = 0x21; // no date of the person's own files
const VERSION = 20;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** CRC-32 (ISO 3309) of bytes, behind that of the bytes before them. */
export function crc32(bytes, before = 0) {
  let sum = ~before;
  for (let at = 0; at < bytes.length; at++) sum = TABLE[(sum ^ bytes[at]) & 0xff] ^ (sum >>> 8);
  return ~sum >>> 0;
}

async function checkSum(blob) {
  const reader = blob.stream().getReader();
  let sum = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return sum;
    sum = crc32(value, sum);
  }
}

/** Little-endian fields: pairs of a width in bytes (2 or 4) and a value. */
function record(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [width]) => sum + width, 0)));
  let at = 0;
  for (const [width, value] of fields) {
    if (width === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += width;
  }
  return view;
}

/**
 * The zip of some members, as a Blob that refers to theirs.
 *
 * @param {[string, Blob][]} members names (ASCII) and contents.
 * @throws {Error} too many members or bytes for a zip; a file that can no longer be read.
 */
export async function zipOf(members) {
  const bytes = members.reduce((sum, [name, blob]) => sum + blob.size + 2 * name.length + 76, 22);
  if (members.length > MOST_MEMBERS || bytes > MOST_BYTES) {
    throw new Error("Too many files or bytes for one zip: choose fewer at a time.");
  }
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, blob] of members) {
    const encoded = new TextEncoder().encode(name);
    const sum = await checkSum(blob);
    // Both kinds of header: version, flags, method (stored), time, date, check sum, sizes, lengths.
    const shared = [
      [2, VERSION], [2, 0], [2, 0], [2, 0], [2, FIRST_OF_1980], [4, sum], [4, blob.size],
      [4, blob.size], [2, encoded.length], [2, 0],
    ];
    parts.push(record([4, 0x04034b50], ...shared), encoded, blob);
    const place = [[2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]; // comment, disk, attributes, where
    directory.push(record([4, 0x02014b50], [2, VERSION], ...shared, ...place), encoded);
    offset += 30 + encoded.length + blob.size;
  }
  const length = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const count = members.length;
  const end = record(
    [4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, length], [4, offset], [2, 0],
  );
  return new Blob([...parts, ...directory, end]);
}
