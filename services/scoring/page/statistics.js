// The statistics of this session: fetched every few seconds while they are kept, shown, saved as CSV, deleted.

import { drawChart, drawTable, drawTotals } from "./chart.js";

const EVERY_MS = 3000;

export class Statistics {
  #session;
  #token;
  #parts;
  #minutes = [];
  #now = 0;
  #timer = 0;
  #reading = null;

  /** `token()` gives the token or null; `parts` are the elements to fill. */
  constructor(session, token, parts) {
    this.#session = session;
    this.#token = token;
    this.#parts = parts;
    new ResizeObserver(() => this.#minutes.length && this.#draw()).observe(parts.chart);
  }

  /** Read now, and every few seconds while `keeps` is true and the page is seen. */
  follow(keeps) {
    clearInterval(this.#timer);
    if (keeps) this.#timer = setInterval(() => document.hidden || this.refresh(), EVERY_MS);
    return this.refresh();
  }

  async refresh() {
    // One at a time: a slow answer must not overtake a later one.
    this.#reading ??= this.#read().finally(() => (this.#reading = null));
    return this.#reading;
  }

  async download() {
    try {
      const answer = await this.#ask("GET", ".csv");
      const address = URL.createObjectURL(await answer.blob());
      const link = document.createElement("a");
      link.href = address;
      link.download = "maskfer-statistics.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 10_000);
      this.#say("");
    } catch (error) {
      this.#say(`The statistics could not be downloaded: ${error.message}`);
    }
  }

  async delete() {
    try {
      await this.#ask("DELETE");
      await this.#reading;
      await this.refresh();
      this.#say("Deleted. Nothing is kept of this session.");
    } catch (error) {
      this.#say(`The statistics could not be deleted: ${error.message}`);
    }
  }

  async #read() {
    try {
      const body = await (await this.#ask("GET", "?minutes=60")).json();
      this.#minutes = body.minutes;
      // The service's clock, which named the minutes; this machine's may differ.
      this.#now = Date.parse(body.now);
      this.#parts.days.textContent = body.days_kept === 1 ? "after a day" : `after ${body.days_kept} days`;
      this.#draw();
      if (this.#parts.note.dataset.kind === "problem") this.#say("");
    } catch (error) {
      this.#say(`The statistics could not be read: ${error.message}`);
    }
  }

  async #ask(method, rest = "") {
    const token = this.#token();
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const address = new URL(`statistics/${this.#session}${rest}`, document.baseURI);
    const answer = await fetch(address, { method, headers, cache: "no-store" }).catch(() => {
      throw new Error("the service does not answer");
    });
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      throw new Error(told.message ?? `status ${answer.status}`);
    }
    return answer;
  }

  #draw() {
    const { chart, totals, nobody, details, table } = this.#parts;
    const some = this.#minutes.some((minute) => minute.faces > 0);
    nobody.hidden = some;
    details.hidden = !some;
    if (!some) {
      chart.replaceChildren();
      totals.replaceChildren();
      table.replaceChildren();
      return;
    }
    drawChart(chart, this.#minutes, this.#now);
    drawTotals(totals, this.#minutes);
    drawTable(table, this.#minutes);
  }

  #say(text) {
    if (this.#parts.note.textContent !== text) this.#parts.note.textContent = text;
    this.#parts.note.dataset.kind = text.includes("could not") ? "problem" : "";
  }
}
