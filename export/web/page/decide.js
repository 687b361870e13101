// From what the graph gives to an answer: the rules and words of edge_runtime/decision.

import { unbase64 } from "./base64.js";
import { InputError, ModelError } from "./errors.js";

const NOT_FINITE = "the model gives no finite numbers for this slice";
const SURE = 0.5; // what a slice looks like is told from this probability on
const POOLINGS = { "log-sum-exp": logMeanExp };

/** Class maps (cells of C values) to C logits: the log of the mean of the exponentials. */
function logMeanExp(maps, classes) {
  const cells = maps.length / classes;
  return Array.from({ length: classes }, (_, k) => {
    let most = -Infinity;
    for (let i = 0; i < cells; i++) most = Math.max(most, maps[i * classes + k]);
    let sum = 0;
    for (let i = 0; i < cells; i++) sum += Math.exp(maps[i * classes + k] - most);
    return Math.fround(most + Math.log(sum / cells));
  });
}

/** Softmax of logits divided by a temperature. */
export function softmax(logits, temperature) {
  if (!logits.every(Number.isFinite)) throw new InputError(NOT_FINITE);
  const most = Math.max(...logits);
  const raised = logits.map((logit) => Math.exp((logit - most) / temperature));
  const sum = raised.reduce((one, other) => one + other, 0);
  return raised.map((value) => value / sum);
}

/** Decides for a model; `info` is its `model.json`. */
export class Decision {
  #info; #ood; #view; #pool;

  /** @throws {ModelError} metadata that this page does not understand. */
  constructor(info) {
    this.#info = info;
    if (info.pooling && !Object.hasOwn(POOLINGS, info.pooling)) {
      throw new ModelError(`the pooling ${String(info.pooling).slice(0, 40)} is not known here`);
    }
    this.#pool = info.pooling ? POOLINGS[info.pooling] : null;
    this.#ood = info.ood ? new OodDetector(info.ood) : null;
    this.#view = info.view ? new View(info.view) : null;
  }

  /**
   * The answer for a slice, as `btc-edge classify --format json` gives it.
   *
   * @param {{input: string, sha256: string, model: string}} names
   * @param {{logits?: Float32Array, class_maps?: Float32Array, features?: Float32Array}} outputs
   */
  answer(names, outputs) {
    const { labels, temperature, thresholds } = this.#info;
    const logits = this.logits(outputs);
    const shares = softmax(logits, temperature);
    const confidence = Math.max(...shares);
    const label = labels[shares.indexOf(confidence)];
    const threshold = thresholds?.[label] ?? null;
    const isOod = Boolean(this.#ood?.isOutside(outputs.features));
    let [seen, reason] = [{ plane: null, sequence: null }, null];
    if (this.#view && !isOod) {
      seen = this.#view.look(outputs.features);
      reason = this.#view.objection(seen);
    }
    const isSure = threshold === null || (confidence >= threshold && threshold < 1);
    let status = isSure && Number.isFinite(confidence) ? "ok" : "uncertain";
    if (isOod) [status, reason] = ["unfamiliar", "unlike the slices that the model learned from"];
    else if (reason) status = "uncertain";
    else if (status === "uncertain") reason = belowThreshold(threshold, label);
    return {
      input: names.input,
      status,
      label: status === "ok" ? label : null,
      raw_label: label,
      confidence,
      probabilities: Object.fromEntries(labels.map((name, k) => [name, shares[k]])),
      reason,
      sha256: names.sha256,
      model: names.model,
      error: null,
      slice: null,
      heatmap: null,
      plane: seen.plane,
      sequence: seen.sequence,
    };
  }

  /** The logits, of which the largest is the best guess. */
  logits(outputs) {
    const given = this.#pool ? outputs.class_maps : outputs.logits;
    if (!given.every(Number.isFinite)) throw new InputError(NOT_FINITE);
    return this.#pool ? this.#pool(given, this.#info.labels.length) : Array.from(given);
  }
}

/** The answer for an input that cannot be used. */
export function failure(input, model, error) {
  return {
    input, status: "error", label: null, raw_label: null, confidence: null, probabilities: null,
    reason: null, sha256: null, model, error, slice: null, heatmap: null, plane: null, sequence: null,
  };
}

function belowThreshold(threshold, label) {
  if (threshold !== null && threshold >= 1) return `${label} is never answered: its threshold is 1`;
  return `confidence below ${threshold.toFixed(3)}, the threshold of ${label}`;
}

/** How far features lie from those of training slices; see edge_runtime/decision/ood.py. */
class OodDetector {
  constructor(shape) {
    if (shape.method !== "distance-and-turn") throw unknown("check for out-of-distribution inputs", shape.method);
    const n = shape.features;
    for (const name of ["mean", "scale", "centers", "turn", "levels"]) this[name] = unpack(shape[name]);
    this.whiten = unpackHalf(shape.whiten);
    this.threshold = shape.threshold;
    const sizes = [this.mean.length === n, this.scale.length === n, this.turn.length === n + 1];
    const shapes = [this.whiten.length === n * n, this.centers.length && this.centers.length % n === 0, this.levels.length === 4];
    if (![...sizes, ...shapes].every(Boolean)) throw damaged("check for out-of-distribution inputs");
  }

  /** Whether features do not lie within the threshold; a score that is no number does not. */
  isOutside(features) {
    const n = this.mean.length;
    const standard = Array.from(features, (value, i) => (value - this.mean[i]) / this.scale[i]);
    const white = Array.from({ length: n }, (_, j) => standard.reduce((sum, value, i) => sum + value * this.whiten[i * n + j], 0));
    let nearest = Infinity;
    for (let at = 0; at < this.centers.length; at += n) {
      nearest = Math.min(nearest, white.reduce((sum, value, j) => sum + (value - this.centers[at + j]) ** 2, 0));
    }
    const distance = Math.log(nearest + 1e-9);
    const turn = standard.reduce((sum, value, i) => sum + value * this.turn[i], 0) + this.turn[n];
    const [centre, spread, turnCentre, turnSpread] = this.levels;
    const score = Math.max((distance - centre) / spread, (turn - turnCentre) / turnSpread);
    return !(score <= this.threshold);
  }
}

/** Which plane and sequence a slice looks like; see edge_runtime/decision/view.py. */
class View {
  constructor(shape) {
    if (shape.method !== "linear-softmax") throw unknown("head for plane and sequence", shape.method);
    this.heads = Object.fromEntries(["plane", "sequence"].map((name) => {
      const head = shape[name];
      if (!head) return [name, null];
      const [weights, bias] = [unpack(head.weights), unpack(head.bias)];
      if (bias.length !== head.labels.length || weights.length !== shape.features * bias.length) {
        throw damaged("head for plane and sequence");
      }
      return [name, { ...head, weights, bias }];
    }));
  }

  look(features) {
    const look = (head) => {
      if (!head) return null;
      const logits = Array.from(head.bias, (bias, k) =>
        features.reduce((sum, value, i) => sum + value * head.weights[i * head.bias.length + k], 0) + bias);
      if (!logits.every(Number.isFinite)) throw new InputError(NOT_FINITE);
      const most = Math.max(...logits);
      const sum = logits.reduce((all, logit) => all + Math.exp(logit - most), 0);
      return SURE * sum > 1 ? null : head.labels[logits.indexOf(most)];
    };
    return { plane: look(this.heads.plane), sequence: look(this.heads.sequence) };
  }

  objection(seen) {
    const fresh = ["plane", "sequence"]
      .filter((name) => this.heads[name] && seen[name] !== null && !this.heads[name].validated.includes(seen[name]))
      .map((name) => seen[name]);
    return fresh.length ? `looks like ${fresh.join(" and ")}, which the model was not validated for` : null;
  }
}

const unknown = (what, method) => new ModelError(`the ${what} '${String(method).slice(0, 40)}' is not known here`);
const damaged = (what) => new ModelError(`the ${what} is damaged`);

/** Little-endian float32 values in base64. */
function unpack(text) {
  const view = new DataView(unbase64(text).buffer);
  return Float64Array.from({ length: view.byteLength >> 2 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Little-endian float16 values in base64 (IEEE 754). */
function unpackHalf(text) {
  const view = new DataView(unbase64(text).buffer);
  return Float64Array.from({ length: view.byteLength >> 1 }, (_, i) => {
    const bits = view.getUint16(2 * i, true);
    const [sign, power, rest] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (power === 31) return rest ? NaN : sign * Infinity;
    return sign * (power ? 2 ** (power - 15) * (1 + rest / 1024) : 2 ** -14 * (rest / 1024));
  });
}
