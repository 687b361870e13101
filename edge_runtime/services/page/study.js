// The card of a study: its answer, its findings, and its slices to scroll through.

import { copyOf, fill, inWords, nameFor, percent, pictureOf, plural, sentence, text, wordsOf } from "./cards.js";

const SVG = "http://www.w3.org/2000/svg";
const WHEEL = 40; // pixels of a wheel or a touchpad for one slice

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
  return [{ title: "1", first: 0, slices: answer.slices.length, used: true, reason: null }];
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
  const view = viewer(card.querySelector(".viewer"), answer.slices, series.filter(shown), findings);
  listFindings(card, findings, series, view);
  listSeries(card, series);
  listPassedOver(card, study.passed_over ?? [], parcel);
  return card;
}

function listFindings(card, findings, series, view) {
  const list = card.querySelector(".findings");
  fill(card, ".findings-words", findings.length ? "Go to the slice of each where it shows most:" : "None.");
  list.hidden = !findings.length;
  for (const finding of findings) {
    const { title, first } = series[finding.series] ?? { title: "?", first: 0 };
    const [from, to] = [finding.first - first + 1, finding.last - first + 1];
    const where = from === to ? `slice ${from}` : `slices ${from}–${to}`;
    const button = text("button", `Series ${title}, ${where}`);
    button.type = "button";
    button.addEventListener("click", () => view(finding.slice));
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
  for (const one of series) {
    const row = document.createElement("tr");
    const name = text("th", one.title);
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

/**
 * Make the part of a card that shows slices work: a slider with arrow keys, the wheel, the box.
 *
 * @returns {(index: number) => void} shows a slice by its place among all, and takes the focus there.
 */
function viewer(part, slices, series, findings) {
  part.hidden = !slices.length;
  if (!slices.length) return () => {};
  const [select, image, slider] = ["select", "img", "input[type=range]"].map((s) => part.querySelector(s));
  const heat = part.querySelector(".heat");
  part.querySelector(".pick").hidden = series.length < 2;
  select.append(...series.map((one, at) => new Option(one.title, String(at))));
  let current = series[0];
  let words = part.querySelector(".place");

  function open(one) {
    current = one;
    select.value = String(series.indexOf(one));
    slider.max = String(one.slices - 1);
    drawStrip(part.querySelector(".strip"), slices.slice(one.first, one.first + one.slices), one.first, findings);
  }

  function show(index) {
    const at = index - current.first;
    const answer = slices[index];
    const other = nearestPicture(slices, index, current);
    const { picture, overlay } = slices[other ?? index];
    const source = pictureOf((heat.checked && overlay) || picture);
    if (source) image.src = source;
    image.hidden = !source;
    image.alt = heat.checked && overlay ? "The slice, bright where the model looked" : "The slice";
    const finding = findings.find(({ first, last }) => first <= index && index <= last);
    drawBox(part, finding);
    const where = [`Slice ${at + 1} of ${current.slices}`, finding ? "in a finding" : "",
      source && other !== index ? `shown as slice ${other - current.first + 1}` : ""].filter(Boolean).join(", ");
    part.querySelector(".where").textContent = where;
    slider.value = String(at);
    slider.setAttribute("aria-valuetext", `${where}: ${sentence(answer)}`);
    part.querySelector(".strip .now")?.setAttribute("x", String(at));
    const next = wordsOf(answer);
    words.replaceWith(next);
    words = next;
  }

  function go(index) {
    const one = series.find(({ first, slices: count }) => first <= index && index < first + count);
    if (!one) return;
    if (one !== current) open(one);
    show(index);
  }

  slider.addEventListener("input", () => show(current.first + Number(slider.value)));
  heat.addEventListener("change", () => show(current.first + Number(slider.value)));
  select.addEventListener("change", () => {
    open(series[Number(select.value)]);
    show(current.first);
  });
  // The box is drawn in the pixels of the picture, which only the picture knows.
  image.addEventListener("load", () => {
    const size = `0 0 ${image.naturalWidth} ${image.naturalHeight}`;
    part.querySelector(".box").setAttribute("viewBox", size);
    go(current.first + Number(slider.value));
  }, { once: true });
  onWheel(part.querySelector(".frame"), (step) => {
    const at = Number(slider.value) + step;
    if (at < 0 || at >= current.slices) return false;
    show(current.first + at);
    return true;
  });

  const start = findings.length ? findings[0].slice : series[0].first + (series[0].slices >> 1);
  open(series[0]);
  go(start);
  return (index) => {
    go(index);
    slider.focus();
  };
}

/** The slice with a picture that is nearest; of very many slices not each has one. */
function nearestPicture(slices, index, { first, slices: count }) {
  for (let away = 0; away < count; away += 1) {
    for (const at of [index - away, index + away]) {
      if (first <= at && at < first + count && slices[at].picture) return at;
    }
  }
  return null;
}

/** Steps of the wheel; where `step` says that there is no further slice, the page scrolls. */
function onWheel(element, step) {
  let turned = 0;
  element.addEventListener("wheel", (event) => {
    if (event.ctrlKey) return; // zoom
    turned += event.deltaMode === 0 ? event.deltaY : event.deltaY * WHEEL;
    if (Math.abs(turned) < WHEEL) {
      event.preventDefault();
      return;
    }
    if (step(Math.sign(turned))) event.preventDefault();
    turned = 0;
  }, { passive: false });
}

/** The box of a finding, in fractions of the slice. */
function drawBox(part, finding) {
  const svg = part.querySelector(".box");
  const [, , width, height] = (svg.getAttribute("viewBox") ?? "0 0 1 1").split(" ").map(Number);
  svg.toggleAttribute("hidden", !finding?.box);
  svg.style.display = finding?.box ? "" : "none";
  if (!finding?.box) return;
  const [left, top, wide, tall] = finding.box;
  const sides = { x: left * width, y: top * height, width: wide * width, height: tall * height };
  for (const [name, value] of Object.entries(sides)) svg.firstElementChild.setAttribute(name, String(value));
}

/** A bar for each slice of a series: the higher, the more speaks for a tumour. */
function drawStrip(svg, slices, first, findings) {
  const bars = slices.map((answer, at) => {
    const inFinding = findings.some((one) => one.first <= first + at && first + at <= one.last);
    const none = answer.probabilities?.notumor;
    const level = none === undefined ? (answer.confidence ?? 0) : 1 - none;
    return column(at, Math.max(level, 0.02), inFinding ? "found" : "");
  });
  svg.setAttribute("viewBox", `0 0 ${slices.length} 1`);
  svg.replaceChildren(column(0, 1, "now"), ...bars);
}

function column(at, level, className) {
  const rect = document.createElementNS(SVG, "rect");
  const sides = { x: at, y: 1 - level, width: 0.85, height: level, class: className };
  for (const [name, value] of Object.entries(sides)) rect.setAttribute(name, String(value));
  return rect;
}
