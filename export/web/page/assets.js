// The page's data: files beside it, or blocks inside it where the page is one file.

import { ModelError } from "./errors.js";
import { inflate } from "./inflate.js";
import { unbase64 } from "./base64.js";

const MOST = 64 << 20; // bytes

/** The bytes of one, unpacked if it is a gzip file. @throws {ModelError} it is not there. */
export async function asset(name) {
  const block = document.getElementById(`asset-${name}`);
  const bytes = block ? unbase64(block.textContent.trim()) : await fetched(name);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes; // some servers unpack it themselves
  try {
    return await inflate(bytes, "gzip", MOST);
  } catch {
    throw new ModelError(`the file ${name} is damaged: export the page again`);
  }
}

async function fetched(name) {
  const answer = await fetch(name).catch(() => null);
  if (!answer?.ok) throw new ModelError(`the file ${name} cannot be read: is it beside this page?`);
  return new Uint8Array(await answer.arrayBuffer());
}
