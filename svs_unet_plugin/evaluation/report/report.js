"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const kinds = Object.fromEntries(data.systems.map((system) => [system.id, system.kind]));
const names = Object.fromEntries(data.systems.map((system) => [system.id, system.name]));
const shown = { source: data.sources[0], metric: data.metrics[0] };

// Numbers

const minus = (text) => text.replace("-", "−");
const sorted = (values) => values.filter((value) => value !== null).sort((a, b) => a - b);

/** The quantile of sorted values, between the two that are nearest. */
function quantile(values, share) {
  const place = (values.length - 1) * share;
  const below = Math.floor(place);
  const above = Math.min(below + 1, values.length - 1);
  return values[below] + (values[above] - values[below]) * (place - below);
}

/** Round numbers between two bounds, some `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Powers of ten between two bounds, and 2 and 5 times them where those are few. */
function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const factors = decades < 2.2 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of factors) found.push(factor * 10 ** power);
  }
  return found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

function short(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return Number((value / size).toPrecision(3)) + " " + unit;
  }
  return String(Number(value.toPrecision(3)));
}

// Drawing

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const pen = document.createElement("canvas").getContext("2d");
pen.font = "12px system-ui, sans-serif";
const widthOf = (text) => pen.measureText(text).width;

/** An empty drawing in the place of what a figure shows; as wide as the figure. */
function canvas(figure, height, label, caption) {
  const width = Math.max(figure.clientWidth, 260);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  figure.replaceChildren(drawing);
  if (caption) {
    const title = document.createElement("figcaption");
    title.textContent = caption;
    figure.prepend(title);
  }
  return { drawing, width };
}

function drawDistribution() {
  const figure = document.getElementById("distribution");
  const rows = Object.entries(data.scores[shown.source][shown.metric] || {})
    .map(([id, values]) => ({ id, values, finite: sorted(values) }))
    .filter((row) => row.finite.length)
    .map((row) => ({ ...row, median: quantile(row.finite, 0.5) }))
    .sort((a, b) => b.median - a.median);
  if (!rows.length) return figure.replaceChildren("No system has this score.");
  const step = 28;
  const top = 6;
  const bottom = top + rows.length * step;
  const { drawing, width } = canvas(figure, bottom + 40, `${shown.metric} of each track, ${shown.source}`);
  const left = Math.min(Math.max(...rows.map((row) => widthOf(names[row.id]))) + 14, width * 0.4);
  const right = width - 48;
  const low = Math.min(...rows.map((row) => row.finite[0]));
  const high = Math.max(...rows.map((row) => row.finite.at(-1)));
  const room = (high - low) * 0.03 || 1;
  const x = (value) => left + ((value - low + room) / (high - low + 2 * room)) * (right - left);
  for (const tick of ticks(low - room, high + room, width < 500 ? 4 : 9)) {
    drawing.append(
      svg("line", { class: tick === 0 ? "axis" : "grid", x1: x(tick), x2: x(tick), y1: top, y2: bottom }),
      svg("text", { x: x(tick), y: bottom + 16, "text-anchor": "middle" }, minus(String(tick))),
    );
  }
  drawing.append(
    svg("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, `${shown.metric} in dB`),
  );
  rows.forEach((row, i) => {
    const y = top + (i + 0.5) * step;
    const [lower, upper] = [quantile(row.finite, 0.25), quantile(row.finite, 0.75)];
    const reach = 1.5 * (upper - lower);
    const first = row.finite.find((value) => value >= lower - reach);
    const last = row.finite.findLast((value) => value <= upper + reach);
    const group = svg("g", { class: `row ${kinds[row.id]}` });
    group.append(
      svg("rect", { class: "hit", x: 0, y: y - step / 2, width, height: step }),
      svg("line", { class: "whisker", x1: x(first), x2: x(last), y1: y, y2: y }),
      svg("rect", {
        class: "box", x: x(lower), y: y - 8, width: Math.max(x(upper) - x(lower), 1), height: 16, rx: 3,
      }),
    );
    row.values.forEach((value, track) => {
      if (value === null) return;
      const shift = (((track * 0.618) % 1) - 0.5) * 11;
      const dot = svg("circle", { class: "track", cx: x(value), cy: y + shift, r: 2.4 });
      dot.append(svg("title", {}, `${data.tracks[track]}: ${minus(value.toFixed(2))} dB`));
      group.append(dot);
    });
    group.append(
      svg("line", { class: "median", x1: x(row.median), x2: x(row.median), y1: y - 9, y2: y + 9 }),
      svg("text", { class: "strong", x: width, y: y + 4, "text-anchor": "end" }, minus(row.median.toFixed(2))),
      label(names[row.id], left - 14, { class: "strong", x: 0, y: y + 4 }),
    );
    drawing.append(group);
  });
}

/** A text that is cut to a width, with all of it as its title. */
function label(text, width, attributes) {
  let cut = text;
  while (cut.length > 3 && widthOf(cut) > width) cut = cut.slice(0, -2).trimEnd() + "…";
  const element = svg("text", attributes, cut);
  if (cut !== text) element.append(svg("title", {}, text));
  return element;
}

function mediansOf(source, metric) {
  return Object.entries(data.scores[source][metric] || {})
    .map(([id, values]) => [id, sorted(values)])
    .filter(([, values]) => values.length)
    .map(([id, values]) => ({ id, y: quantile(values, 0.5) }));
}

/** Medians against a cost on a logarithmic axis. */
function drawCost(place, key, caption) {
  const figure = document.getElementById(place);
  const medians = mediansOf(shown.source, shown.metric).filter((point) => kinds[point.id] !== "bound");
  const cost = Object.fromEntries(data.systems.map((system) => [system.id, system[key]]));
  const points = medians.map((point) => ({ ...point, x: cost[point.id] })).filter((point) => point.x > 0);
  if (!points.length) return figure.replaceChildren();
  const height = 330;
  const { drawing, width } = canvas(figure, height, caption, caption);
  const frame = { left: 34, right: width - 8, top: 10, bottom: height - 38 };
  // What costs nothing of the kind is a level to be compared with.
  const levels = ["oracle", "classical"]
    .map((kind) => medians.filter((point) => kinds[point.id] === kind && !(cost[point.id] > 0)))
    .filter((some) => some.length)
    .map((some) => some.reduce((best, point) => (point.y > best.y ? point : best)));
  const ys = [...points, ...levels].map((point) => point.y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const room = (high - low) * 0.12 || 1;
  const y = (value) =>
    frame.bottom - ((value - low + room) / (high - low + 2 * room)) * (frame.bottom - frame.top);
  const [least, most] = [Math.min(...points.map((p) => p.x)) / 1.7, Math.max(...points.map((p) => p.x)) * 1.7];
  const x = (value) =>
    frame.left + (Math.log(value / least) / Math.log(most / least)) * (frame.right - frame.left);
  for (const tick of ticks(low - room, high + room, 6)) {
    drawing.append(
      svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: frame.left - 6, y: y(tick) + 4, "text-anchor": "end" }, minus(String(tick))),
    );
  }
  for (const tick of logTicks(least, most)) {
    drawing.append(
      svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: frame.top, y2: frame.bottom }),
      svg("text", { x: x(tick), y: frame.bottom + 16, "text-anchor": "middle" }, short(tick)),
    );
  }
  drawing.append(
    svg("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }),
    svg(
      "text",
      { x: (frame.left + frame.right) / 2, y: height - 4, "text-anchor": "middle" },
      key === "seconds" ? "seconds per minute of audio" : "parameters",
    ),
  );
  const taken = points.map((point) => ({ x: x(point.x) - 6, y: y(point.y) - 6, width: 12, height: 12 }));
  const overlaps = (a, b) =>
    a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
  for (const level of levels) {
    const text = `best ${data.kinds[kinds[level.id]].toLowerCase()}: ${names[level.id]}`;
    const box = { x: frame.left + 2, y: y(level.y) - 18, width: widthOf(text) + 4, height: 15 };
    taken.push(box);
    drawing.append(
      svg("line", {
        class: `level ${kinds[level.id]}`, x1: frame.left, x2: frame.right, y1: y(level.y), y2: y(level.y),
      }),
      svg("text", { x: box.x + 2, y: box.y + 12 }, text),
    );
  }
  for (const point of [...points].sort((a, b) => b.y - a.y)) {
    const [cx, cy] = [x(point.x), y(point.y)];
    const size = { width: widthOf(names[point.id]) + 2, height: 14 };
    const places = [0, 1, -1, 2, -2, 3, -3, 4, -4].flatMap((shift) => [
      { ...size, x: cx + 9 + Math.abs(shift) * 2, y: cy - 7 + shift * 14 },
      { ...size, x: cx - 9 - Math.abs(shift) * 2 - size.width, y: cy - 7 + shift * 14 },
    ]);
    const box = places.find(
      (spot) =>
        spot.x >= frame.left && spot.x + spot.width <= frame.right + 6 &&
        spot.y >= 0 && spot.y + spot.height <= frame.bottom &&
        !taken.some((other) => overlaps(spot, other)),
    );
    const group = svg("g", { class: kinds[point.id] });
    group.append(svg("circle", { class: "system", cx, cy, r: 5 }));
    if (box) {
      taken.push(box);
      const end = { x: box.x > cx ? box.x - 2 : box.x + box.width, y: box.y + 7 };
      if (Math.abs(end.y - cy) > 8) {
        group.append(svg("line", { class: "leader", x1: cx, y1: cy, x2: end.x, y2: end.y }));
      }
      group.append(svg("text", { class: "strong", x: box.x, y: box.y + 11 }, names[point.id]));
    }
    const unit = key === "seconds" ? "s per minute" : "parameters";
    group.append(
      svg("title", {}, `${names[point.id]}: ${minus(point.y.toFixed(2))} dB, ${short(point.x)} ${unit}`),
    );
    drawing.append(group);
  }
}

function drawLosses() {
  const figure = document.getElementById("losses");
  if (!figure) return;
  const height = 340;
  const { drawing, width } = canvas(figure, height, "Losses of each epoch");
  const frame = { left: 50, right: width - 8, top: 8, bottom: height - 38 };
  const epochs = Math.max(...data.losses.map((loss) => loss.train.length));
  const all = data.losses.flatMap((loss) => [...loss.train, ...loss.validation]);
  const logarithmic = Math.min(...all) > 0; // losses in dB are not
  const scale = logarithmic ? Math.log : (value) => value;
  const room = logarithmic ? 0 : (Math.max(...all) - Math.min(...all)) * 0.04 || 1;
  const factor = logarithmic ? 1.08 : 1;
  const [low, high] = [Math.min(...all) / factor - room, Math.max(...all) * factor + room];
  const x = (epoch) => frame.left + ((epoch - 1) / Math.max(epochs - 1, 1)) * (frame.right - frame.left - 8) + 4;
  const share = (value) => (scale(value) - scale(low)) / (scale(high) - scale(low));
  const y = (value) => frame.bottom - share(value) * (frame.bottom - frame.top);
  for (const tick of logarithmic ? logTicks(low, high) : ticks(low, high, 6)) {
    drawing.append(
      svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: frame.left - 6, y: y(tick) + 4, "text-anchor": "end" }, minus(String(Number(tick.toPrecision(3))))),
    );
  }
  for (const tick of ticks(1, Math.max(epochs, 2), width < 500 ? 4 : 8).filter(Number.isInteger)) {
    drawing.append(svg("text", { x: x(tick), y: frame.bottom + 16, "text-anchor": "middle" }, String(tick)));
  }
  drawing.append(
    svg("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }),
    svg("text", { x: (frame.left + frame.right) / 2, y: height - 4, "text-anchor": "middle" }, "epoch"),
  );
  const legend = document.createElement("ul");
  legend.className = "legend";
  data.losses.forEach((loss, i) => {
    const colour = `var(--c${i % 6})`;
    const points = loss.validation.map((value, j) => `${x(j + 1)},${y(value)}`).join(" ");
    drawing.append(svg("polyline", { class: "line", points, style: `stroke: ${colour}` }));
    loss.train.forEach((value, j) => {
      const dot = svg("circle", { cx: x(j + 1), cy: y(value), r: 2.2, style: `fill: ${colour}; opacity: .55` });
      dot.append(svg("title", {}, `${loss.name}, epoch ${j + 1}: ${Number(value.toPrecision(3))} in training`));
      drawing.append(dot);
    });
    const item = document.createElement("li");
    const mark = document.createElement("i");
    mark.className = "dot";
    mark.style.setProperty("--kind", colour);
    item.append(mark, loss.name);
    legend.append(item);
  });
  figure.prepend(legend);
}

function draw() {
  drawDistribution();
  drawCost("seconds", "seconds", `${shown.metric} in dB against time, ${shown.source}`);
  drawCost("parameters", "parameters", `${shown.metric} in dB against size, ${shown.source}`);
}

// What the reader chooses

function choose() {
  for (const button of document.querySelectorAll("[data-source]")) {
    button.setAttribute("aria-pressed", String(button.dataset.source === shown.source));
  }
  for (const part of document.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== shown.source;
  draw();
}

document.querySelector(".chooser").hidden = false;
for (const button of document.querySelectorAll("[data-source]")) {
  button.addEventListener("click", () => {
    shown.source = button.dataset.source;
    choose();
  });
}
document.getElementById("metric").addEventListener("change", (event) => {
  shown.metric = event.target.value;
  draw();
});

// Sound: one player for all, so that the next estimate goes on where the last one was

const audio = new Audio();
let current = null;

function mark() {
  if (!current) return;
  current.classList.toggle("playing", !audio.paused);
  if (audio.duration) {
    current.querySelector("b").style.left = `${(100 * audio.currentTime) / audio.duration}%`;
  }
  if (!audio.paused) requestAnimationFrame(mark);
}

/** Play a picture's sound, or stop it; another one of the same track goes on at the same moment. */
function press(player) {
  if (player === current && !audio.paused) {
    audio.pause();
    return;
  }
  if (player !== current) {
    const sameTrack = current && current.parentElement === player.parentElement;
    const moment = sameTrack && !audio.ended ? audio.currentTime : 0;
    current?.classList.remove("current", "playing");
    current = player;
    current.classList.add("current");
    audio.src = player.dataset.sound;
    audio.addEventListener("loadedmetadata", () => (audio.currentTime = moment), { once: true });
  }
  audio.play().catch(() => {}); // another press came before it began
}

for (const event of ["play", "pause", "ended", "seeked"]) audio.addEventListener(event, mark);
for (const player of document.querySelectorAll(".player")) {
  player.addEventListener("click", () => press(player));
}

let width = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  draw();
  drawLosses();
}).observe(document.body);
choose();
