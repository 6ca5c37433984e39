// Draws the judged picture and what was read on it, so that a frame and its boxes always belong together.

import { direction, maskWords, percent, title, tone } from "./words.js";

const GLASS = "rgba(10, 14, 16, 0.78)";
const INK = "#f4f7f8";
const DIM = "#c3cbd0";
const TURNS = { up: 0, right: Math.PI / 2, down: Math.PI, left: -Math.PI / 2 };
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

export class View {
  #canvas;
  #pen;
  #tones = new Map();
  #patch = document.createElement("canvas");

  constructor(canvas) {
    this.#canvas = canvas;
    this.#pen = canvas.getContext("2d", { alpha: false });
  }

  /** Draw a frame and its faces; `crop` is {context} of the model, for the place of a heatmap. */
  draw(picture, width, height, faces, { context = 1, compact = false } = {}) {
    const place = this.#fit(width, height);
    const pen = this.#pen;
    pen.fillStyle = "#0b0f11";
    pen.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    pen.drawImage(picture, place.left, place.top, width * place.scale, height * place.scale);
    for (const face of faces) if (face.heatmap) this.#heatmap(face, place, context);
    for (const face of faces) this.#frame(face, place);
    const taken = faces.map((face) => this.#box(face, place));
    for (const face of faces) this.#label(face, place, compact, taken);
  }

  #fit(width, height) {
    const ratio = Math.min(2, devicePixelRatio || 1);
    const w = Math.round(this.#canvas.clientWidth * ratio);
    const h = Math.round(this.#canvas.clientHeight * ratio);
    if (this.#canvas.width !== w || this.#canvas.height !== h) {
      this.#canvas.width = w;
      this.#canvas.height = h;
    }
    const scale = Math.min(w / width, h / height);
    return { scale, left: (w - width * scale) / 2, top: (h - height * scale) / 2, ratio, w, h };
  }

  #box({ box }, place) {
    return {
      x: place.left + box.left * place.scale,
      y: place.top + box.top * place.scale,
      w: box.width * place.scale,
      h: box.height * place.scale,
    };
  }

  #frame(face, place) {
    const { x, y, w, h } = this.#box(face, place);
    const pen = this.#pen;
    const arm = Math.min(w, h) * 0.24;
    const r = Math.min(w, h) * 0.09;
    pen.beginPath();
    for (const [cx, cy, sx, sy] of [[x, y, 1, 1], [x + w, y, -1, 1], [x + w, y + h, -1, -1], [x, y + h, 1, -1]]) {
      pen.moveTo(cx, cy + sy * arm);
      pen.lineTo(cx, cy + sy * r);
      pen.quadraticCurveTo(cx, cy, cx + sx * r, cy);
      pen.lineTo(cx + sx * arm, cy);
    }
    pen.lineCap = "round";
    pen.lineJoin = "round";
    pen.strokeStyle = "rgba(0, 0, 0, 0.55)";
    pen.lineWidth = 6 * place.ratio;
    pen.stroke();
    pen.strokeStyle = this.#tone(face, face.expression);
    pen.lineWidth = 3 * place.ratio;
    pen.stroke();
  }

  /** The three bars, mask and direction, on glass beside the face; where there is no room, bars alone below. */
  #label(face, place, compact, taken) {
    const unit = place.ratio;
    const names = Object.keys(face.probabilities);
    const width = 176 * unit;
    const height = (58 + 20 * names.length) * unit;
    const spot = compact ? null : roomFor(this.#box(face, place), width, height, 12 * unit, place, taken);
    if (spot === null) return this.#strip(face, names, place);
    taken.push(spot);
    const { x, y } = spot;
    this.#glass(x, y, width, height, 12 * unit);
    const pad = 12 * unit;
    this.#text(title(face.expression), x + pad, y + 18 * unit, 15 * unit, 650, INK);
    this.#arrow(face.orientation, x + width - pad - 8 * unit, y + 18 * unit, 8 * unit);
    names.forEach((name, index) => {
      const row = y + (41 + 20 * index) * unit;
      const share = face.probabilities[name];
      this.#text(name.slice(0, 9), x + pad, row, 11.5 * unit, 450, DIM);
      const start = x + pad + 60 * unit;
      const length = width - 2 * pad - (60 + 40) * unit;
      this.#bar(start, row - 3.5 * unit, length, 7 * unit, share, this.#tone(face, name));
      this.#text(percent(share), x + width - pad, row, 11.5 * unit, 550, INK, "right");
    });
    const foot = y + height - 14 * unit;
    this.#text(maskWords(face), x + pad, foot, 11.5 * unit, 450, DIM);
    this.#text(direction(face.orientation).slice(6), x + width - pad, foot, 11.5 * unit, 450, DIM, "right");
  }

  #strip(face, names, place) {
    const unit = place.ratio;
    const box = this.#box(face, place);
    const width = Math.max(74 * unit, Math.min(box.w, 132 * unit));
    const height = (10 + 8 * names.length) * unit;
    const x = Math.max(2, Math.min(box.x + (box.w - width) / 2, place.w - width - 2));
    const below = box.y + box.h + 7 * unit;
    const y = below + height <= place.h ? below : Math.max(2, box.y + box.h - height - 4 * unit);
    this.#glass(x, y, width, height, 7 * unit);
    names.forEach((name, index) => {
      const row = y + (7 + 8 * index) * unit;
      const length = width - 28 * unit;
      this.#bar(x + 8 * unit, row, length, 5 * unit, face.probabilities[name], this.#tone(face, name));
    });
    this.#arrow(face.orientation, x + width - 11 * unit, y + height / 2, 6 * unit);
  }

  #glass(x, y, w, h, radius) {
    const pen = this.#pen;
    pen.beginPath();
    pen.roundRect(x, y, w, h, radius);
    pen.fillStyle = GLASS;
    pen.fill();
  }

  #bar(x, y, w, h, share, colour) {
    const pen = this.#pen;
    pen.fillStyle = "rgba(255, 255, 255, 0.18)";
    pen.beginPath();
    pen.roundRect(x, y, w, h, h / 2);
    pen.fill();
    pen.fillStyle = colour;
    pen.beginPath();
    pen.roundRect(x, y, Math.max(h, w * share), h, h / 2);
    pen.fill();
  }

  #text(text, x, y, size, weight, colour, align = "left") {
    const pen = this.#pen;
    pen.font = `${weight} ${size}px ${FONT}`;
    pen.textAlign = align;
    pen.textBaseline = "middle";
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
  }

  #arrow(orientation, x, y, size) {
    const pen = this.#pen;
    pen.save();
    pen.translate(x, y);
    pen.fillStyle = INK;
    pen.beginPath();
    if (orientation in TURNS) {
      pen.rotate(TURNS[orientation]);
      pen.moveTo(0, -size);
      pen.lineTo(size * 0.8, size * 0.7);
      pen.lineTo(0, size * 0.3);
      pen.lineTo(-size * 0.8, size * 0.7);
    } else {
      pen.arc(0, 0, size * 0.45, 0, 2 * Math.PI);
    }
    pen.fill();
    pen.restore();
  }

  /** H_m over the square that the model saw: the box's longer side times the crop's context. */
  #heatmap(face, place, context) {
    const side = face.heatmap_side;
    const levels = Uint8Array.from(atob(face.heatmap), (letter) => letter.charCodeAt(0));
    if (levels.length !== side * side) return;
    this.#patch.width = side;
    this.#patch.height = side;
    const patch = this.#patch.getContext("2d");
    const image = patch.createImageData(side, side);
    levels.forEach((level, index) => {
      const heat = level / 255;
      image.data.set([255, Math.round(225 - 165 * heat), Math.round(90 - 60 * heat), Math.round(190 * heat)], 4 * index);
    });
    patch.putImageData(image, 0, 0);
    const { x, y, w, h } = this.#box(face, place);
    const square = Math.max(w, h) * context;
    this.#pen.save();
    this.#pen.beginPath();
    this.#pen.roundRect(x + (w - square) / 2, y + (h - square) / 2, square, square, square * 0.06);
    this.#pen.clip();
    this.#pen.imageSmoothingQuality = "high";
    this.#pen.drawImage(this.#patch, x + (w - square) / 2, y + (h - square) / 2, square, square);
    this.#pen.restore();
  }

  #tone(face, name) {
    const names = Object.keys(face.probabilities);
    const kind = tone(name, names.indexOf(name));
    let colour = this.#tones.get(kind);
    if (colour === undefined) {
      // Asked of the style sheet, which has the colours; on the dark glass those of the dark theme are right.
      const probe = document.createElement("i");
      probe.className = `probe ${kind}`;
      document.body.append(probe);
      colour = getComputedStyle(probe).color;
      probe.remove();
      this.#tones.set(kind, colour);
    }
    return colour;
  }
}

/** Where a label of this size lies on no face and on no other label; null where there is no such place. */
function roomFor({ x, y, w, h }, width, height, gap, place, taken) {
  const across = x + (w - width) / 2;
  const spots = [
    [x + w + gap, y],
    [x - gap - width, y],
    [x + w + gap, y + h - height],
    [x - gap - width, y + h - height],
    [across, y + h + gap],
    [across, y - gap - height],
  ];
  for (const [left, wanted] of spots) {
    if (left < 0 || left + width > place.w) continue;
    const top = Math.max(gap / 2, Math.min(wanted, place.h - height - gap / 2));
    const spot = { x: left, y: top, w: width, h: height };
    if (!taken.some((other) => overlap(spot, other))) return spot;
  }
  return null;
}

const overlap = (one, other) =>
  one.x < other.x + other.w && other.x < one.x + one.w && one.y < other.y + other.h && other.y < one.y + one.h;
