// The graph in LiteRT.js, on the processor: one compilation, one slice at a time.

import { ModelError } from "./errors.js";
import { Tensor, loadAndCompile, loadLiteRt } from "./litert.js";

export class Graph {
  #compiled; #shape; #type; #outputs;

  /** @throws {ModelError} the interpreter cannot load the model. */
  static async open({ graph, info }) {
    try {
      await loadLiteRt("");
      const made = new Graph();
      made.#compiled = await loadAndCompile(graph.slice(), { accelerator: "wasm" });
      made.#shape = info.input.shape;
      made.#type = info.input.dtype === "uint8" ? Uint8Array : Float32Array;
      made.#outputs = Object.entries(info.outputs);
      return made;
    } catch (error) {
      if (error instanceof ModelError) throw error;
      throw new ModelError(`LiteRT.js cannot load the model: ${error?.message ?? error}`);
    }
  }

  /** The outputs for a model's input, by name. */
  async run(pixels) {
    const input = new Tensor(new this.#type(pixels), this.#shape);
    try {
      const given = await this.#compiled.run(input);
      const outputs = this.#outputs.map(([name, at]) => [name, given[at].toTypedArray().slice()]);
      given.forEach((tensor) => tensor.delete());
      return Object.fromEntries(outputs);
    } catch (error) {
      throw new ModelError(`LiteRT.js failed on the model: ${error?.message ?? error}`);
    } finally {
      input.delete();
    }
  }
}
