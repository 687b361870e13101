// Answers as cards. Every text that comes from files or the server goes in as textContent.

const LABELS = { notumor: "no tumour" };
const STATUSES = { ok: "Answer", uncertain: "Uncertain", unfamiliar: "Unfamiliar", error: "No answer" };

/** A template's element, a fresh copy. */
export const copyOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

export const percent = (share) => `${Math.round(share * 100)} %`;
export const inWords = (label) => LABELS[label] ?? label;
export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** Text into the part of an element; a part without text is hidden. */
export function fill(element, selector, text) {
  const part = element.querySelector(selector);
  part.textContent = text ?? "";
  part.hidden = !text;
  return part;
}

const guess = (answer) => `${inWords(answer.raw_label)}, ${percent(answer.confidence ?? 0)}`;

/** What an answer says, in a line. */
export function sentence(answer) {
  if (answer.status === "ok") return guess(answer);
  if (answer.status === "error") return `no answer: ${answer.error}`;
  return `${answer.status}: ${answer.reason}`;
}

/** The name that a person knows a file by, for one as answers call it. */
export function nameFor(input, parcel) {
  const member = input.startsWith("upload/") ? input.slice("upload/".length) : "";
  if (parcel.names.has(member)) return parcel.names.get(member);
  return member ? `${parcel.title}: ${member}` : parcel.title;
}

/** An answer in words, and its probabilities as bars. */
export function wordsOf(answer) {
  const words = copyOf("words-template");
  words.dataset.status = answer.status;
  words.querySelector(".status").textContent = STATUSES[answer.status] ?? answer.status;
  fill(words, ".label", answer.status === "ok" ? guess(answer) : null);
  fill(words, ".reason", answer.error ?? answer.reason);
  const isGuess = answer.status !== "ok" && answer.raw_label !== null;
  fill(words, ".guess", isGuess && `Best guess, which is no answer: ${guess(answer)}`);
  const table = words.querySelector("table");
  const bars = Object.entries(answer.probabilities ?? {});
  table.hidden = !bars.length;
  for (const [label, share] of bars) table.tBodies[0].append(bar(label, share));
  const seen = [answer.plane, answer.sequence].filter(Boolean).join(", ");
  fill(words, ".seen", seen && `Looks like: ${seen}`);
  return words;
}

export function text(tag, content, className = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  element.className = className;
  return element;
}

function bar(label, share) {
  const row = document.createElement("tr");
  const name = text("th", inWords(label));
  name.scope = "row";
  const track = text("span", "", "track");
  const level = text("span", "", "level");
  level.style.width = `${Math.min(Math.max(share, 0), 1) * 100}%`;
  track.append(level);
  const drawn = document.createElement("td");
  drawn.append(track);
  row.append(name, drawn, text("td", `${(share * 100).toFixed(1)} %`, "figure"));
  return row;
}

/** A picture of the server's; nothing but the data of a picture is ever loaded. */
export const pictureOf = (uri) => (/^data:image\/(png|jpeg);base64,/.test(uri ?? "") ? uri : null);

/** The card of one slice, or of a file that could not be used. */
export function pictureCard(answer, parcel) {
  const card = copyOf("picture-template");
  const title = nameFor(answer.input, parcel);
  const number = answer.slice === null ? "" : `, slice ${answer.slice + 1}`;
  card.querySelector(".title").textContent = title + number;
  card.querySelector(".place").replaceWith(wordsOf(answer));
  const [plain, heated] = [pictureOf(answer.picture), pictureOf(answer.overlay)];
  const image = card.querySelector("img");
  const heat = card.querySelector(".heat");
  card.querySelector(".frame").hidden = !plain;
  card.querySelector(".check").hidden = !plain || !heated;
  const show = () => {
    image.src = heat.checked ? heated : plain;
    image.alt = heat.checked ? "The slice, bright where the model looked" : "The slice";
  };
  heat.addEventListener("change", show);
  if (plain) show();
  return card;
}
