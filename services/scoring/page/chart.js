// The chart of the last hour: a column for each minute, how many faces below it. The table beside it says the same.

import { direction, percent, title, tone } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const MINUTES = 60;
const MINUTE_MS = 60_000;
const SHARES = 132;
const COUNTS = 34;
const LEFT = 46;
const GAP = 14;
const TOP = 9;

/** Draw into `place` what the service keeps; `now` is the end of the axis, milliseconds. */
export function drawChart(place, minutes, now) {
  const width = Math.max(280, Math.round(place.clientWidth));
  const height = TOP + SHARES + GAP + COUNTS + 20;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  svg.setAttribute("aria-label", summary(minutes));
  const last = Math.floor(now / MINUTE_MS);
  const step = (width - LEFT) / MINUTES;
  for (const share of [0, 0.5, 1]) {
    const y = TOP + SHARES * (1 - share);
    svg.append(shape("line", { x1: LEFT, x2: width, y1: y, y2: y, class: "grid" }));
    svg.append(word(percent(share), LEFT - 6, y + 4, "end"));
  }
  const most = Math.max(1, ...minutes.map((minute) => minute.faces));
  const base = TOP + SHARES + GAP + COUNTS;
  for (const minute of minutes) {
    const slot = MINUTES - 1 - (last - Math.floor(Date.parse(minute.minute) / MINUTE_MS));
    if (slot < 0 || slot >= MINUTES || minute.faces === 0) continue;
    svg.append(column(minute, LEFT + slot * step, step, base, most));
  }
  svg.append(shape("line", { x1: LEFT, x2: width, y1: base, y2: base, class: "grid" }));
  svg.append(word("faces", LEFT - 6, base - COUNTS / 2 + 4, "end"));
  for (const ago of [60, 45, 30, 15, 0]) {
    const x = LEFT + (MINUTES - ago) * step;
    const anchor = ago === 60 ? "start" : ago === 0 ? "end" : "middle";
    svg.append(word(clock((last + 1 - ago) * MINUTE_MS), x, height - 4, anchor));
  }
  place.replaceChildren(svg);
}

function column(minute, x, step, base, most) {
  const group = shape("g", { class: "minute" });
  const width = Math.max(1.5, step - 1.5);
  let top = TOP;
  Object.entries(minute.probabilities).forEach(([name, share], index) => {
    const high = SHARES * share;
    group.append(shape("rect", { x, y: top, width, height: high, class: `fill ${tone(name, index)}` }));
    top += high;
  });
  const faces = (COUNTS * minute.faces) / most;
  const masked = (COUNTS * minute.masked) / most;
  group.append(shape("rect", { x, y: base - faces, width, height: faces, class: "count" }));
  group.append(shape("rect", { x, y: base - masked, width, height: masked, class: "count masked" }));
  const tip = shape("title", {});
  const shares = Object.entries(minute.probabilities).map(([name, share]) => `${name} ${percent(share)}`);
  tip.textContent = `${clock(Date.parse(minute.minute))}: ${minute.faces} faces, ${shares.join(", ")}, masked ${percent(minute.masked_share)}`;
  group.append(tip);
  return group;
}

/** Figures over all minutes, exact because every minute says how many faces its means are of. */
export function totals(minutes) {
  const sum = { faces: 0, masked: 0, probabilities: {}, orientations: {} };
  for (const minute of minutes) {
    sum.faces += minute.faces;
    sum.masked += minute.masked;
    for (const [name, share] of Object.entries(minute.probabilities)) {
      sum.probabilities[name] = (sum.probabilities[name] ?? 0) + share * minute.faces;
    }
    for (const [name, count] of Object.entries(minute.orientations)) {
      sum.orientations[name] = (sum.orientations[name] ?? 0) + count;
    }
  }
  return sum;
}

export function drawTotals(place, minutes) {
  const sum = totals(minutes);
  const items = [["swatch-none", "Faces judged", sum.faces.toLocaleString("en")]];
  Object.entries(sum.probabilities).forEach(([name, total], index) => {
    items.push([tone(name, index), title(name), percent(total / sum.faces)]);
  });
  items.push(["swatch-masked", "Masked", percent(sum.masked / sum.faces)]);
  const looks = Object.entries(sum.orientations).sort((one, other) => other[1] - one[1])[0];
  if (looks) items.push(["swatch-none", `Mostly ${direction(looks[0])}`, percent(looks[1] / sum.faces)]);
  const list = document.createElement("dl");
  for (const [kind, name, value] of items) {
    const row = document.createElement("div");
    row.className = kind;
    const term = document.createElement("dt");
    const figure = document.createElement("dd");
    term.textContent = name;
    figure.textContent = value;
    row.append(term, figure);
    list.append(row);
  }
  place.replaceChildren(list);
}

export function drawTable(table, minutes) {
  const classes = [...new Set(minutes.flatMap((minute) => Object.keys(minute.probabilities)))];
  const looks = Object.keys(minutes[0]?.orientations ?? {});
  const head = ["Minute", "Faces", ...classes.map(title), "Masked", ...looks.map((name) => `Looks ${name}`)];
  const caption = document.createElement("caption");
  caption.textContent = "Mean probability of each expression, share masked, and where faces looked";
  const rows = [...minutes].reverse().map((minute) => [
    clock(Date.parse(minute.minute)),
    minute.faces,
    ...classes.map((name) => (name in minute.probabilities ? percent(minute.probabilities[name]) : "–")),
    minute.faces ? percent(minute.masked_share) : "–",
    ...looks.map((name) => minute.orientations[name]),
  ]);
  const body = document.createElement("tbody");
  body.append(...rows.map((cells) => line(cells, "td")));
  const header = document.createElement("thead");
  header.append(line(head, "th"));
  table.replaceChildren(caption, header, body);
}

function line(cells, kind) {
  const row = document.createElement("tr");
  cells.forEach((text, index) => {
    const cell = document.createElement(index === 0 ? "th" : kind);
    cell.scope = kind === "th" ? "col" : index === 0 ? "row" : "";
    cell.textContent = text;
    row.append(cell);
  });
  return row;
}

function summary(minutes) {
  const sum = totals(minutes);
  if (sum.faces === 0) return "No faces in the last hour";
  const shares = Object.entries(sum.probabilities).map(([name, total]) => `${name} ${percent(total / sum.faces)}`);
  return `Mean probabilities per minute of the last hour; over all: ${shares.join(", ")}. The table below has the figures.`;
}

const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

function word(text, x, y, anchor) {
  const element = shape("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

function shape(kind, attributes) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
