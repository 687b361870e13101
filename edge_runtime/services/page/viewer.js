// Scrolls through the slices of a study: a slider with arrow keys, the wheel, the box of a finding.

import { pictureOf, sentence, wordsOf } from "./cards.js";

const SVG = "http://www.w3.org/2000/svg";
const WHEEL = 40; // pixels of a wheel or a touchpad for one slice

export class Viewer {
  #part; #slices; #series; #findings; // given
  #select; #image; #slider; #heat; // elements
  #current; // the series that is shown
  #box = null; // of the slice that is shown

  /**
   * @param {Element} part of a card.
   * @param {object[]} slices answers, of all series.
   * @param {object[]} series each with its `title`, and its `first` slice and their number, `slices`.
   * @param {object[]} findings with their `first`, `last` and clearest `slice`, and a `box`.
   */
  constructor(part, slices, series, findings) {
    [this.#part, this.#slices, this.#series, this.#findings] = [part, slices, series, findings];
    this.#select = part.querySelector("select");
    this.#image = part.querySelector("img");
    this.#slider = part.querySelector("input[type=range]");
    this.#heat = part.querySelector(".heat");
    part.querySelector(".pick").hidden = series.length < 2;
    this.#select.append(...series.map((one, at) => new Option(one.title, String(at))));
    this.#listen();
    this.#open(series[0]);
    this.#go(findings.length ? findings[0].slice : series[0].first + (series[0].slices >> 1));
  }

  /** Show a slice, by its place among all, and take the focus there. */
  visit(index) {
    this.#go(index);
    this.#slider.focus();
  }

  #listen() {
    this.#slider.addEventListener("input", () => this.#show(this.#index));
    this.#heat.addEventListener("change", () => this.#show(this.#index));
    this.#select.addEventListener("change", () => {
      this.#open(this.#series[Number(this.#select.value)]);
      this.#show(this.#current.first);
    });
    this.#image.addEventListener("load", () => this.#drawBox()); // in whose pixels it is drawn
    onWheel(this.#part.querySelector(".frame"), (step) => {
      const next = this.#index + step;
      if (!isIn(this.#current, next)) return false;
      this.#show(next);
      return true;
    });
  }

  get #index() {
    return this.#current.first + Number(this.#slider.value);
  }

  #go(index) {
    const series = this.#series.find((one) => isIn(one, index));
    if (!series) return;
    if (series !== this.#current) this.#open(series);
    this.#show(index);
  }

  #open(series) {
    this.#current = series;
    this.#select.value = String(this.#series.indexOf(series));
    this.#slider.max = String(series.slices - 1);
    this.#drawStrip();
  }

  #show(index) {
    const answer = this.#slices[index];
    const finding = this.#findings.find(({ first, last }) => first <= index && index <= last);
    const pictured = this.#picture(index);
    this.#box = finding?.box ?? null;
    this.#part.querySelector(".box").classList.toggle("near", finding?.slice !== index);
    this.#drawBox();
    const words = [
      `Slice ${this.#number(index)} of ${this.#current.slices}`,
      finding && "in a finding",
      pictured !== null && pictured !== index && `with the picture of slice ${this.#number(pictured)}`,
    ];
    const where = words.filter(Boolean).join(", ");
    this.#part.querySelector(".where").textContent = where;
    this.#slider.value = String(index - this.#current.first);
    this.#slider.setAttribute("aria-valuetext", `${where}: ${sentence(answer)}`);
    this.#part.querySelector(".now").setAttribute("x", String(index - this.#current.first));
    this.#part.querySelector(".place").replaceChildren(wordsOf(answer));
  }

  #number(index) {
    return index - this.#current.first + 1;
  }

  /** Show the picture of a slice, or of the nearest that has one: of very many not each has. */
  #picture(index) {
    const near = (at) => isIn(this.#current, at) && this.#slices[at].picture;
    let pictured = null;
    for (let away = 0; pictured === null && away < this.#current.slices; away += 1) {
      pictured = [index - away, index + away].find(near) ?? null;
    }
    const { picture, overlay } = this.#slices[pictured ?? index];
    const isHeated = this.#heat.checked && Boolean(overlay);
    const source = pictureOf(isHeated ? overlay : picture);
    this.#image.hidden = !source;
    if (source) this.#image.src = source;
    this.#image.alt = isHeated ? "The slice, bright where the model looked" : "The slice";
    return pictured;
  }

  /** The box is in fractions of the slice. */
  #drawBox() {
    const { naturalWidth: width, naturalHeight: height } = this.#image;
    const svg = this.#part.querySelector(".box");
    const isShown = Boolean(this.#box && width);
    svg.style.display = isShown ? "" : "none";
    if (!isShown) return;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const [left, top, wide, tall] = this.#box;
    place(svg.firstElementChild, left * width, top * height, wide * width, tall * height);
  }

  /** A bar for each slice of the series: the higher, the more speaks for a tumour. */
  #drawStrip() {
    const { first, slices: count } = this.#current;
    const bars = this.#slices.slice(first, first + count).map((answer, at) => {
      const isFound = this.#findings.some((one) => one.first <= first + at && first + at <= one.last);
      const none = answer.probabilities?.notumor;
      const level = none === undefined ? (answer.confidence ?? 0) : 1 - none;
      return column(at, Math.max(level, 0.02), isFound ? "found" : "");
    });
    const svg = this.#part.querySelector(".strip");
    svg.setAttribute("viewBox", `0 0 ${count} 1`);
    svg.replaceChildren(column(0, 1, "now"), ...bars);
  }
}

const isIn = ({ first, slices }, index) => first <= index && index < first + slices;

function place(rect, x, y, width, height) {
  for (const [name, value] of Object.entries({ x, y, width, height })) rect.setAttribute(name, String(value));
}

function column(at, level, className) {
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("class", className);
  place(rect, at, 1 - level, 0.85, level);
  return rect;
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
