// Stands in for @litertjs/wasm-utils, which would load a script and its .wasm by their addresses: the
// script is part of the page, and the .wasm comes as all its data does.

import { asset } from "./assets.js";

export async function createWasmLib(LiteRt) {
  const wasmBinary = await asset("litert.wasm.gz");
  const module = await globalThis.ModuleFactory({ wasmBinary, print: () => {}, printErr: () => {} });
  return new LiteRt(module);
}
