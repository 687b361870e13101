// The browser's own decompressor, held to the size that the caller expects.

/**
 * Decompressed bytes.
 *
 * @param {Uint8Array} packed
 * @param {"deflate" | "deflate-raw" | "gzip"} format
 * @param {number} most more than so many bytes are not unpacked.
 * @throws {Error} damaged, or larger than `most`.
 */
export async function inflate(packed, format, most) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream(format));
  const reader = stream.getReader();
  const pieces = [];
  let size = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > most) throw new Error("larger than it should be");
      pieces.push(value);
    }
  } catch (error) {
    await reader.cancel().catch(() => {}); // of a stream that failed already
    throw error;
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
