// Readings a second and the time they take; shown twice a second, because figures that flicker cannot be read.

const OVER_MS = 2000;
const SHOW_MS = 500;

export class Meters {
  #parts;
  #answers = [];
  #size = "";

  constructor(parts) {
    this.#parts = parts;
    setInterval(() => this.#show(), SHOW_MS);
  }

  add(roundTripMs, serverMs, { width, height }) {
    this.#answers.push({ at: performance.now(), roundTripMs, serverMs });
    this.#size = `${width} × ${height}`;
  }

  reset() {
    this.#answers = [];
    this.#size = "";
    this.#show();
  }

  #show() {
    const now = performance.now();
    this.#answers = this.#answers.filter((answer) => now - answer.at <= OVER_MS);
    const some = this.#answers.length > 0;
    const span = some ? Math.max(SHOW_MS, now - this.#answers[0].at) : 1;
    set(this.#parts.rate, some ? Math.round((1000 * this.#answers.length) / span) : "–");
    set(this.#parts.roundTrip, some ? Math.round(median(this.#answers, "roundTripMs")) : "–");
    set(this.#parts.serverTime, some ? median(this.#answers, "serverMs").toFixed(1) : "–");
    set(this.#parts.pictureSize, this.#size || "–");
  }
}

function median(answers, key) {
  const values = answers.map((answer) => answer[key]).sort((one, other) => one - other);
  return values[Math.floor(values.length / 2)];
}

function set(element, value) {
  if (element.textContent !== String(value)) element.textContent = value;
}
