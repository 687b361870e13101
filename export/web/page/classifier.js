// The way of a slice: bytes, gray levels, the model's input, the graph, an answer.

import { asset } from "./assets.js";
import { failure } from "./decide.js";
import { InputError } from "./errors.js";
import { Graph } from "./graph.js";
import { checkedHeader } from "./headers.js";
import { jpegDecoder } from "./jpeg.js";
import { parseModel } from "./model.js";
import { decodePng } from "./png.js";
import { preprocess } from "./preprocess.js";
import { sha256 } from "./sha256.js";

export class Classifier {
  #graph; #decoders;

  /** @throws {ModelError} the model or a part of this page is missing or damaged. */
  static async open() {
    const [file, wasm] = await Promise.all([asset("model.tflite"), asset("jpeg-turbo.wasm.gz")]);
    const made = new Classifier();
    made.model = await parseModel(file);
    made.#graph = await Graph.open(made.model);
    made.#decoders = { jpeg: await jpegDecoder(wasm), png: decodePng };
    return made;
  }

  /**
   * The answer for a picture, and what is shown beside it.
   *
   * @param {string} name as the answer calls it.
   * @param {Uint8Array} bytes
   * @returns {Promise<{answer: object, slice?: object, heat?: object}>}
   */
  async classify(name, bytes) {
    const { info, tag, decision } = this.model;
    try {
      const header = checkedHeader(bytes);
      const slice = await this.#decoders[header.format](bytes, header);
      const { pixels, box } = preprocess(slice, info.preprocess);
      const outputs = await this.#graph.run(pixels);
      const answer = decision.answer({ input: name, sha256: sha256(bytes), model: tag }, outputs);
      return { answer, slice, heat: heatOf(outputs.class_maps, info.labels, decision.logits(outputs), box) };
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      return { answer: failure(name, tag, error.message) };
    }
  }
}

/** The class map of the best guess; null where the model gives none. */
function heatOf(maps, labels, logits, box) {
  if (!maps) return null;
  const best = logits.indexOf(Math.max(...logits));
  const values = Array.from({ length: maps.length / labels.length }, (_, i) => maps[i * labels.length + best]);
  return { values, side: Math.round(Math.sqrt(values.length)), box };
}
