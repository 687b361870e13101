// The card of a study: its answer, its findings, its series, and its slices to scroll through.

import { copyOf, fill, inWords, nameFor, percent, plural, text, wordsOf } from "./cards.js";
import { Viewer } from "./viewer.js";

/** What a series is, in words. */
function seriesName(series, at) {
  const kind = [series.plane, series.sequence].filter(Boolean).join(" ");
  return kind ? `${at + 1} (${kind})` : `${at + 1}`;
}

const shown = (series) => Number.isInteger(series.first) && series.slices > 0;

/** The series of a study, with where each lies; an answer that names none has one. */
function seriesOf(answer) {
  const told = (answer.study?.series ?? []).map((series, at) => ({ ...series, title: seriesName(series, at) }));
  if (told.some(shown) || !answer.slices.length) return told;
  return [{ title: "1", first: 0, slices: answer.slices.length, used: true, reason: null }, ...told];
}

export function studyCard(answer, parcel) {
  const card = copyOf("study-template");
  const study = answer.study ?? {};
  const series = seriesOf(answer);
  card.querySelector(".title").textContent = nameFor(answer.input, parcel);
  fill(card, ".uid", study.uid && `Study ${study.uid}`);
  card.querySelector(".verdict .place").replaceWith(wordsOf(answer));
  const evidence = [
    study.tumor == null ? null : `Evidence of a tumour: ${percent(study.tumor)}`,
    study.type ? `Type: ${inWords(study.type.label)}, ${percent(study.type.confidence)}` : null,
  ];
  fill(card, ".type", evidence.filter(Boolean).join(". "));
  const findings = study.findings ?? [];
  const part = card.querySelector(".viewer");
  part.hidden = !answer.slices.length;
  const viewer = part.hidden ? null : new Viewer(part, answer.slices, series.filter(shown), findings);
  const none = study.tumor == null ? "None: no series was judged by a rule for studies." : "None.";
  fill(card, ".findings-words", findings.length ? "Go to the slice of each where it shows most:" : none);
  listFindings(card, findings, series, viewer);
  listSeries(card, series);
  listPassedOver(card, study.passed_over ?? [], parcel);
  return card;
}

function listFindings(card, findings, series, viewer) {
  const list = card.querySelector(".findings");
  list.hidden = !findings.length;
  for (const finding of findings) {
    const { title, first } = series[finding.series] ?? { title: "?", first: 0 };
    const [from, to] = [finding.first - first + 1, finding.last - first + 1];
    const where = from === to ? `slice ${from}` : `slices ${from}–${to}`;
    const button = text("button", `Series ${title}, ${where}`);
    button.type = "button";
    button.addEventListener("click", () => viewer?.visit(finding.slice));
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
}

function listSeries(card, series) {
  const used = series.filter((one) => one.used).length;
  const details = card.querySelector(".series");
  details.hidden = !series.length;
  details.open = series.length <= 8;
  details.querySelector("summary").textContent = `${plural(series.length, "series", "series")}, ${used} used`;
  for (const [at, one] of series.entries()) {
    const row = document.createElement("tr");
    const name = text("th", at + 1);
    name.scope = "row";
    const why = one.used ? "yes" : `no: ${one.reason ?? "left out"}`;
    row.append(name, ...[one.plane ?? "–", one.sequence ?? "–", one.slices, why].map((cell) => text("td", cell)));
    details.querySelector("tbody").append(row);
  }
}

function listPassedOver(card, passedOver, parcel) {
  const details = card.querySelector(".passed");
  details.hidden = !passedOver.length;
  details.querySelector("summary").textContent = `${plural(passedOver.length, "file")} passed over`;
  const lines = passedOver.map(({ input, reason }) => text("li", `${nameFor(input, parcel)}: ${reason}`));
  details.querySelector("ul").append(...lines);
}
