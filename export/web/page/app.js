// The page of btc-export --web: takes pictures and answers them here. Nothing leaves the browser.

import { copyOf, fill, pictureCard, inWords, sentence } from "./cards.js";
import { Classifier } from "./classifier.js";
import { asset } from "./assets.js";
import { save, whenChosen, whenDropped } from "./exchange.js";
import { overlay, plain, shrunk } from "./heatmap.js";
import { LIMITS } from "./headers.js";

const part = (id) => document.getElementById(id);
const NOT_READ = "The file can no longer be read: choose it again.";

let classifier = null;
let isWorking = false;
let waiting = []; // {file, path, card}
let answers = [];
let generation = 0; // counts how often all was cleared

// Taking files

function take(files) {
  for (const { file, path } of files) {
    const card = copyOf("waiting-template");
    card.querySelector(".title").textContent = path;
    fill(card, ".state", "Waits for its turn.");
    card.querySelector("progress").hidden = true;
    part("answers").append(card);
    waiting.push({ file, path, card });
  }
  refresh();
  void work();
}

async function work() {
  if (isWorking || !classifier) return;
  isWorking = true;
  while (waiting.length) {
    const [one] = waiting.splice(0, 1);
    const now = generation;
    fill(one.card, ".state", "Being classified …");
    await new Promise((resolve) => setTimeout(resolve)); // so that it shows
    try {
      const found = await answerTo(one);
      if (now === generation) show(one, found);
    } catch (error) {
      if (now === generation) fail(one, error.message);
    }
  }
  isWorking = false;
}

async function answerTo({ file, path }) {
  // Of a file over the limit nothing is read: an empty view of that length would be refused, too.
  if (file.size > LIMITS.bytes) throw new Error(`larger than the limit of ${LIMITS.bytes >> 20} MiB`);
  const buffer = await file.arrayBuffer().catch(() => { throw new Error(NOT_READ); });
  return classifier.classify(path, new Uint8Array(buffer));
}

// Showing answers

function show({ path, card }, { answer, slice, heat }) {
  const shown = { ...answer };
  if (slice) {
    const small = shrunk(slice);
    shown.picture = drawn(small, plain(small));
    if (heat) shown.overlay = drawn(small, overlay(small, heat));
  }
  const made = pictureCard(shown, { title: path, names: new Map() });
  const hadFocus = card.contains(document.activeElement);
  card.replaceWith(made);
  if (hadFocus) made.querySelector("input")?.focus();
  answers.push(answer);
  say(`${path}: ${sentence(answer)}`);
  refresh();
}

function drawn({ width, height }, rgba) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  return canvas.toDataURL("image/png");
}

function fail({ path, card }, words) {
  fill(card, ".state", words);
  card.classList.add("failed");
  say(`${path}: ${words}`);
}

function say(words) {
  part("news").textContent = answers.length > 1 ? `${answers.length} answered. ${words}` : words;
}

function refresh() {
  part("none").hidden = part("answers").childElementCount > 0;
  part("clear").disabled = !part("answers").childElementCount;
  part("export").disabled = !answers.length;
}

// The page itself

whenChosen(part("files"), take);
whenDropped(take, say);

part("export").addEventListener("click", () => save(answers));

part("clear").addEventListener("click", () => {
  generation += 1;
  [waiting, answers] = [[], []];
  part("answers").replaceChildren();
  say("All answers are gone.");
  refresh();
  part("files").focus();
});

async function open() {
  try {
    const made = await Classifier.open();
    const about = JSON.parse(new TextDecoder().decode(await asset("web.json")));
    const { info, sha256 } = made.model;
    part("model").textContent =
      `Model ${info.name} ${info.version}; tells ${info.labels.map(inWords).join(", ")}. ` +
      `SHA-256 of this page's model file ${sha256}, made from the file ${about.made_from.sha256}. ` +
      `btc-edge ${about.version}, LiteRT.js ${about.litert_js}.`;
    classifier = made;
    document.documentElement.dataset.ready = "yes"; // for those who wait for it
    void work();
  } catch (error) {
    part("model").textContent = `This page cannot answer: ${error.message}`;
    part("model").setAttribute("role", "alert");
    part("files").disabled = true;
    document.documentElement.dataset.ready = "no";
  }
}

/** For whoever measures the page: the answer for the bytes of a picture, without showing it. */
globalThis.btcEdge = { classify: (name, bytes) => classifier.classify(name, bytes) };

void open();
