// The readings as text beside the picture: a card for every face, and a sentence now and then for screen readers.

import { direction, maskWords, percent, sentence, title, tone } from "./words.js";

const ANNOUNCE_MS = 4000;

/** `announce(text)` is called with a sentence when what is seen has changed, seldom enough to be listened to. */
export class Readings {
  #list;
  #nobody;
  #count;
  #announce;
  #cards = new Map();
  #saidAt = -Infinity;
  #said = "";

  constructor({ list, nobody, count, announce }) {
    this.#list = list;
    this.#nobody = nobody;
    this.#count = count;
    this.#announce = announce;
  }

  show(faces) {
    const here = new Set(faces.map((face) => face.track));
    for (const [track, card] of this.#cards) {
      if (here.has(track)) continue;
      card.remove();
      this.#cards.delete(track);
    }
    for (const face of faces) {
      let card = this.#cards.get(face.track);
      if (card === undefined || card.names !== Object.keys(face.probabilities).join()) {
        card?.remove();
        card = new Card(face);
        this.#cards.set(face.track, card);
        this.#list.append(card.element);
      }
      card.show(face);
    }
    this.#nobody.hidden = faces.length > 0;
    setText(this.#count, faces.length === 0 ? "No face" : faces.length === 1 ? "1 face" : `${faces.length} faces`);
    this.#tell(faces);
  }

  clear() {
    for (const card of this.#cards.values()) card.remove();
    this.#cards.clear();
    this.#nobody.hidden = false;
    setText(this.#count, "No face");
    this.#said = "";
    this.#announce("");
  }

  #tell(faces) {
    const now = performance.now();
    if (now - this.#saidAt < ANNOUNCE_MS) return;
    // Words that differ, not percentages that tremble: else it would talk without end.
    const words = sentence(faces).replace(/\d+ percent/g, "");
    if (words === this.#said) return;
    this.#said = words;
    this.#saidAt = now;
    this.#announce(sentence(faces));
  }
}

class Card {
  #verdict = node("strong", "verdict");
  #mask = node("span", "chip");
  #looks = node("span", "looks-word");
  #compass = compass();
  #rows = new Map();

  constructor(face) {
    this.names = Object.keys(face.probabilities).join();
    this.element = node("li", "face");
    this.element.dataset.track = face.track;
    const head = node("div", "face-head");
    const name = node("span", "face-name");
    name.textContent = `Face ${face.track + 1}`;
    head.append(name, this.#verdict, this.#mask);
    const bars = node("div", "bars");
    Object.keys(face.probabilities).forEach((label, index) => {
      const row = node("div", `bar ${tone(label, index)}`);
      const fill = node("span", "bar-fill");
      const value = node("span", "bar-value");
      const track = node("span", "bar-track");
      row.setAttribute("role", "meter");
      row.setAttribute("aria-label", label);
      row.setAttribute("aria-valuemin", "0");
      row.setAttribute("aria-valuemax", "100");
      row.dataset.label = label;
      const word = node("span", "bar-name");
      word.textContent = label;
      track.append(fill);
      row.append(word, track, value);
      bars.append(row);
      this.#rows.set(label, { row, fill, value });
    });
    const looks = node("div", "looks");
    looks.append(this.#compass, this.#looks);
    this.element.append(head, bars, looks);
  }

  show(face) {
    const names = Object.keys(face.probabilities);
    this.element.className = `face ${tone(face.expression, names.indexOf(face.expression))}`;
    setText(this.#verdict, title(face.expression));
    setText(this.#mask, title(maskWords(face)));
    this.#mask.dataset.masked = face.masked;
    for (const [label, { row, fill, value }] of this.#rows) {
      const share = face.probabilities[label];
      fill.style.transform = `scaleX(${share.toFixed(3)})`;
      setText(value, percent(share));
      row.setAttribute("aria-valuenow", Math.round(100 * share));
    }
    this.#compass.dataset.direction = face.orientation;
    setText(this.#looks, title(direction(face.orientation)));
  }

  remove() {
    this.element.remove();
  }
}

function compass() {
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "-20 -20 40 40");
  svg.setAttribute("class", "compass");
  svg.setAttribute("aria-hidden", "true");
  const parts = [
    ["circle", { r: 18, class: "ring" }],
    ["path", { d: "M0-18v3M0 18v-3M-18 0h3M18 0h-3", class: "ticks" }],
    ["path", { d: "M0-13 6-2 0-5-6-2Z", class: "needle" }],
    ["circle", { r: 4, class: "hub" }],
  ];
  for (const [kind, attributes] of parts) {
    const part = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    svg.append(part);
  }
  return svg;
}

function node(kind, className) {
  const element = document.createElement(kind);
  element.className = className;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
