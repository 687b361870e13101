// One file is the whole model: a flatbuffer with a zip behind it, whose comment is the digest of all
// before it. As edge_runtime/model/file_format.py: nothing runs before the digests are checked.

import { Decision } from "./decide.js";
import { ModelError } from "./errors.js";
import { inflate } from "./inflate.js";
import { unsupported } from "./preprocess.js";
import { sha256 } from "./sha256.js";

const DIGEST = 64; // letters
const MOST = 4 << 20; // bytes of metadata
const SCHEMAS = [2, 3]; // of model.json

/**
 * A checked model.
 *
 * @param {Uint8Array} bytes of a file that `btc-export --web` wrote.
 * @throws {ModelError}
 */
export async function parseModel(bytes) {
  const text = (from, to) => new TextDecoder("latin1").decode(bytes.subarray(from, to));
  if (text(4, 8) !== "TFL3") throw new ModelError("the model file is no .tflite: damaged, or another file");
  const end = bytes.length - DIGEST;
  if (text(end - 2, end) !== "@\0" || text(end - 22, end - 18) !== "PK\x05\x06") {
    throw new ModelError("the model file has no digest at its end: truncated or altered");
  }
  if (sha256(bytes.subarray(0, end)) !== text(end, bytes.length)) {
    throw new ModelError("the model file does not match its digest: altered");
  }
  const { members, start } = directory(bytes, end - 22);
  const info = await metadata(bytes, members.get("model.json"));
  const graph = bytes.subarray(0, start);
  if (sha256(graph) !== info.graph_sha256) {
    throw new ModelError("the graph does not match its digest: truncated or altered file");
  }
  const digest = sha256(bytes);
  const scheme = String(info.quantization?.scheme).split("-")[0];
  const tag = `${info.name} ${info.version} ${scheme} ${digest.slice(0, 8)}`;
  return { info, graph, sha256: digest, tag, decision: new Decision(info) };
}

/** The zip's members by name, and where the first begins (PKWARE's APPNOTE, 4.3.12). */
function directory(bytes, end) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [count, size] = [view.getUint16(end + 10, true), view.getUint32(end + 12, true)];
  const shift = end - size - view.getUint32(end + 16, true); // the flatbuffer before the zip
  const members = new Map();
  let [at, start] = [end - size, end];
  for (let i = 0; i < count; i++) {
    const length = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + length));
    const offset = view.getUint32(at + 42, true) + shift;
    const data = offset + 30 + view.getUint16(offset + 26, true) + view.getUint16(offset + 28, true);
    const packed = bytes.subarray(data, data + view.getUint32(at + 20, true));
    members.set(name, { packed, size: view.getUint32(at + 24, true) });
    start = Math.min(start, offset);
    at += 46 + length + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return { members, start };
}

async function metadata(bytes, member) {
  if (!member || member.size > MOST) throw new ModelError("no metadata in the model file: not from btc-export");
  const info = JSON.parse(new TextDecoder().decode(await inflate(member.packed, "deflate-raw", MOST)));
  if (!SCHEMAS.includes(info.schema)) {
    throw new ModelError(`the model's metadata has schema ${String(info.schema).slice(0, 40)}: export the page again`);
  }
  const reason = unsupported(info.preprocess);
  if (reason) throw new ModelError(`a model that needs ${reason} is not supported here`);
  return info;
}
