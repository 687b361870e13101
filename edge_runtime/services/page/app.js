// The page of btc-edge serve: takes files, sends them one parcel after the other, shows the answers.
// Nothing is kept longer than the page is open; the token and the answers live in its memory only.

import { copyOf, fill, inWords, nameFor, pictureCard, plural, sentence, text } from "./cards.js";
import { save, whenChosen, whenDropped } from "./exchange.js";
import { sorted } from "./files.js";
import { askInfo, classify, Refused } from "./server.js";
import { studyCard } from "./study.js";

const AT_ONCE = 2; // requests
const PATIENCE = 20; // tries of a busy server
const LONGEST_WAIT = 30; // seconds between two of them
const MIB = 1 << 20;
const WRONG_TOKEN = "That is not the token of this server.";

const part = (id) => document.getElementById(id);

let token = "";
let info = null; // what the server says of itself; null until it does
let locked = false; // a token is asked for
let running = 0;
const parcels = []; // all, as they came; one has a `state`, its `card`, and `answers` at the end

// Taking files

async function take(files) {
  if (!files.length) return;
  if (files.length > 1) say(`Looking at ${files.length} files …`);
  const found = await sorted(files);
  if (found.passedOver.length) notePassedOver(found.passedOver);
  for (const parcel of found.parcels) {
    parcel.state = "waiting";
    parcel.card = waitingCard(parcel);
    part("answers").append(parcel.card);
    parcels.push(parcel);
  }
  if (!found.parcels.length) say("None of these files can be classified.");
  refresh();
  work();
}

function notePassedOver(files) {
  const details = document.createElement("details");
  const lines = document.createElement("ul");
  lines.append(...files.map(({ input, reason }) => text("li", `${input}: ${reason}`)));
  details.append(text("summary", `${plural(files.length, "file")} passed over, not sent`), lines);
  part("notes").append(details);
}

// Sending them

function work() {
  while (running < AT_ONCE && !locked) {
    const parcel = parcels.find(({ state }) => state === "waiting");
    if (!parcel) return;
    parcel.state = "sent";
    running += 1;
    void answerTo(parcel).finally(() => {
      running -= 1;
      refresh();
      work();
    });
  }
}

async function answerTo(parcel) {
  parcel.stop = new AbortController();
  try {
    if (!info) await greet();
    const most = info.limits.body_bytes;
    if (parcel.size > most) {
      const advice = parcel.names.size ? " Choose one series." : "";
      throw new Error(`${mebibytes(parcel.size)}: this server takes ${mebibytes(most)} at a time.${advice}`);
    }
    const body = await readable(parcel);
    finish(parcel, await patiently(parcel, body));
  } catch (error) {
    if (!parcels.includes(parcel)) return; // cleared meanwhile
    if (error.status === 401) {
      parcel.state = "waiting";
      progress(parcel, "Waits for the token.", null);
      if (!locked) lock(error.message);
      return;
    }
    fail(parcel, error.message);
  }
}

async function readable(parcel) {
  progress(parcel, "Being read …", null);
  try {
    const body = await parcel.body();
    await body.slice(0, 1).arrayBuffer();
    return body;
  } catch (error) {
    // A file that was moved or changed since it was chosen.
    throw error instanceof DOMException ? new Error("The file can no longer be read: choose it again.") : error;
  }
}

async function patiently(parcel, body) {
  for (let tries = 1; ; tries += 1) {
    progress(parcel, "Being sent …", 0);
    try {
      return await classify(body, parcel.isStudy, token, parcel.stop.signal, (share) => {
        if (share < 1) progress(parcel, "Being sent …", share);
        else progress(parcel, "Being classified …", null);
      });
    } catch (error) {
      if (!error.isBusy || tries === PATIENCE) throw error;
      const seconds = Math.min(error.retryAfter ?? 2, LONGEST_WAIT);
      progress(parcel, `The server is busy: tried again in ${plural(seconds, "second")}.`, null);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      if (!parcels.includes(parcel)) throw error;
    }
  }
}

// Showing them

function waitingCard(parcel) {
  const card = copyOf("waiting-template");
  card.querySelector(".title").textContent = parcel.title;
  fill(card, ".state", "Waits for its turn.");
  const bar = card.querySelector("progress");
  bar.setAttribute("aria-label", `Progress of ${parcel.title}`);
  bar.hidden = true;
  card.querySelector(".again").addEventListener("click", () => {
    parcel.state = "waiting";
    card.classList.remove("failed");
    progress(parcel, "Waits for its turn.", null);
    focusOn(card); // whose button goes
    card.querySelector(".again").hidden = true;
    work();
  });
  return card;
}

/** So that the keyboard goes on from where it was. */
function focusOn(card) {
  const title = card.querySelector(".title");
  title.tabIndex = -1;
  title.focus();
}

/** How far a parcel is; `share` is null where that is not known. */
function progress(parcel, words, share) {
  fill(parcel.card, ".state", words);
  const bar = parcel.card.querySelector("progress");
  bar.hidden = parcel.state !== "sent";
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

function fail(parcel, words) {
  parcel.state = "failed";
  progress(parcel, words, null);
  parcel.card.classList.add("failed");
  parcel.card.querySelector(".again").hidden = false;
  say(`${parcel.title}: ${words}`);
}

function finish(parcel, answers) {
  if (!parcels.includes(parcel)) return; // cleared meanwhile
  if (!answers.length) throw new Error("The server found nothing in it to classify.");
  const cards = answers.map((answer) => (answer.slices ? studyCard(answer, parcel) : pictureCard(answer, parcel)));
  const hadFocus = parcel.card.contains(document.activeElement);
  parcel.card.replaceWith(...cards);
  if (hadFocus) focusOn(cards[0]);
  parcel.state = "answered";
  parcel.answers = answers;
  const more = answers.length > 1 ? ` and ${answers.length - 1} more` : "";
  say(`${parcel.title}: ${sentence(answers[0])}${more}`);
}

/** Tell people, and screen readers at the next pause. */
function say(words) {
  const done = parcels.filter(({ state }) => state === "answered").length;
  part("news").textContent = parcels.length > 1 ? `${done} of ${parcels.length} answered. ${words}` : words;
}

function refresh() {
  part("none").hidden = parcels.length > 0;
  part("clear").disabled = !parcels.length;
  part("export").disabled = !parcels.some(({ answers }) => answers);
}

// The server, and its token

const mebibytes = (bytes) => `${Math.max(Math.round(bytes / MIB), 1)} MiB`;

async function greet() {
  const told = await askInfo(token);
  if (!told?.model?.labels || !told.limits?.body_bytes) throw new Refused(200, "This server is no btc-edge.");
  info = told;
  const { model } = info;
  part("model").textContent =
    `Model ${model.name} ${model.version}; tells ${model.labels.map(inWords).join(", ")}. btc-edge ${info.version}.`;
  part("limits").textContent = `The server takes ${mebibytes(info.limits.body_bytes)} at a time.`;
}

function lock(words) {
  locked = true;
  part("door").hidden = false;
  part("door-words").textContent = words;
  part("token").value = "";
  part("token").focus();
}

async function knock() {
  try {
    await greet();
    locked = false;
    part("door").hidden = true;
    work();
  } catch (error) {
    if (error.status === 401) lock(token ? WRONG_TOKEN : error.message);
    else part("model").textContent = error.message;
  }
}

part("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = part("token").value.trim();
  if (/^[!-~]+$/.test(token)) void knock();
  else lock(WRONG_TOKEN); // a header cannot carry it
});

// The page itself

for (const id of ["files", "folder"]) whenChosen(part(id), take);
if (!("webkitdirectory" in HTMLInputElement.prototype)) part("folder").parentElement.hidden = true;
whenDropped(take, say);

/** An answer without its pictures, under the name that the person knows. */
function plain({ picture, overlay, ...answer }, parcel) {
  const own = (input) => (/^upload(\/|$)/.test(input) ? nameFor(input, parcel) : input); // else a UID
  const kept = { ...answer, input: own(answer.input) };
  if (answer.slices) kept.slices = answer.slices.map((slice) => plain(slice, parcel));
  const passedOver = answer.study?.passed_over?.map((file) => ({ ...file, input: own(file.input) }));
  if (passedOver) kept.study = { ...answer.study, passed_over: passedOver };
  return kept;
}

part("export").addEventListener("click", () => {
  save(parcels.flatMap((parcel) => (parcel.answers ?? []).map((answer) => plain(answer, parcel))));
});

part("clear").addEventListener("click", () => {
  for (const { stop } of parcels) stop?.abort();
  parcels.length = 0;
  part("answers").replaceChildren();
  part("notes").replaceChildren();
  say("All answers are gone.");
  refresh();
  part("files").focus();
});

void knock();
