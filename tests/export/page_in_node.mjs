// Calls functions of the page's modules for tests/export/test_web_modules.py: a request a line, an
// answer a line. Bytes and arrays travel as base64.

import { createInterface } from "node:readline";
import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { pathToFileURL } from "node:url";

const [folder, wasm] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${folder}/${name}.js`));
const [{ preprocess }, { checkedHeader }, { decodePng }, { jpegDecoder }, { Decision }, { sha256 }, { overlay }, { parseModel }] =
  await Promise.all(["preprocess", "headers", "png", "jpeg", "decide", "sha256", "heatmap", "model"].map(load));

const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64"));
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const floats = (shape) => Object.fromEntries(Object.entries(shape).map(([name, values]) => [name, Float32Array.from(values)]));
const decoders = { png: decodePng };
if (wasm) decoders.jpeg = await jpegDecoder(gunzipSync(await readFile(wasm)));

async function decode(data) {
  const header = checkedHeader(data);
  return decoders[header.format](data, header);
}

const calls = {
  decode: async ({ data }) => {
    const slice = await decode(bytes(data));
    return { ...slice, pixels: text(slice.pixels) };
  },
  preprocess: ({ pixels, width, height, options }) => {
    const made = preprocess({ pixels: bytes(pixels), width, height }, options);
    return { ...made, pixels: text(made.pixels) };
  },
  answer: ({ info, outputs }) =>
    new Decision(info).answer({ input: "one", sha256: "two", model: "three" }, floats(outputs)),
  sha256: ({ data }) => sha256(bytes(data)),
  overlay: ({ pixels, width, height, heat }) =>
    text(overlay({ pixels: bytes(pixels), width, height }, heat)),
  model: async ({ data }) => {
    const { graph, decision, ...told } = await parseModel(bytes(data));
    return told;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { value: await calls[call](given) };
  } catch (error) {
    answer = { error: error.message, kind: error.constructor.name };
  }
  console.log(JSON.stringify(answer));
}
