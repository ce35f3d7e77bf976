"use strict";
// Draws what `stages_page.py` computed. The state is two numbers: which checkpoint and which example.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const slider = find("checkpoint"), chooser = find("example");
const state = {checkpoint: data.checkpoints.length - 1, example: data.examples.length - 1, turn: -0.7, playing: 0};
const shapes = "os^Dv<P";
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (label) => { // black is not seen on a dark ground
  const name = data.colours[label % data.colours.length];
  return dark.matches && data.onDark[name] || name;
};

// ---- drawing in data coordinates ----

function prepared(id) { // a canvas as large as it is shown, cleared
  const canvas = find(id), box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * scale);
  canvas.height = Math.round(box.height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "12px system-ui, sans-serif";
  return [pen, box.width, box.height];
}

function frame(pen, width, height, limits, axes) { // returns data -> pixel
  const left = 42, bottom = 30, [[x0, x1], [y0, y1]] = limits;
  const at = (x, y) => [left + (x - x0) / (x1 - x0) * (width - left - 8), height - bottom - (y - y0) / (y1 - y0) * (height - bottom - 8)];
  pen.fillStyle = css("--soft");
  const round = (value) => Number(value.toPrecision(2)).toString();
  pen.textAlign = "left"; pen.fillText(round(x0), at(x0, y0)[0], height - 16);
  pen.textAlign = "right"; pen.fillText(round(x1), at(x1, y0)[0], height - 16);
  pen.fillText(round(y0), left - 5, at(x0, y0)[1]); pen.fillText(round(y1), left - 5, at(x0, y1)[1] + 10);
  pen.textAlign = "center"; pen.fillText(axes[0], (left + width) / 2, height - 4);
  pen.save(); pen.translate(12, height / 2); pen.rotate(-Math.PI / 2); pen.fillText(axes[1], 0, 0); pen.restore();
  return at;
}

function regions(pen, at, limits, winner) {
  const size = Math.round(Math.sqrt(winner.length)), [[x0, x1], [y0, y1]] = limits;
  const dx = (x1 - x0) / (size - 1), dy = (y1 - y0) / (size - 1);
  pen.globalAlpha = 0.2;
  for (let row = 0; row < size; row++) {
    for (let start = 0; start < size;) {
      let end = start + 1;
      while (end < size && winner[row * size + end] === winner[row * size + start]) end++;
      const [left, top] = at(Math.max(x0, x0 + (start - 0.5) * dx), Math.min(y1, y0 + (row + 0.5) * dy));
      const [right, low] = at(Math.min(x1, x0 + (end - 0.5) * dx), Math.max(y0, y0 + (row - 0.5) * dy));
      pen.fillStyle = colour(parseInt(winner[row * size + start], 36));
      pen.fillRect(left, top, right - left, low - top);
      start = end;
    }
  }
  pen.globalAlpha = 1;
}

function marker(pen, x, y, label, size) {
  const shape = shapes[label % shapes.length], s = size;
  pen.beginPath();
  if (shape === "o") pen.arc(x, y, s, 0, 2 * Math.PI);
  else if (shape === "s") pen.rect(x - s, y - s, 2 * s, 2 * s);
  else if (shape === "P") { pen.rect(x - s, y - s / 3, 2 * s, 2 * s / 3); pen.rect(x - s / 3, y - s, 2 * s / 3, 2 * s); }
  else {
    const turns = {"^": [0, 3], "D": [0, 4], "v": [Math.PI, 3], "<": [-Math.PI / 2, 3]}[shape];
    for (let i = 0; i < turns[1]; i++) {
      const angle = turns[0] + 2 * Math.PI * i / turns[1];
      pen.lineTo(x + 1.25 * s * Math.sin(angle), y - 1.25 * s * Math.cos(angle));
    }
    pen.closePath();
  }
  pen.fillStyle = colour(label);
  pen.fill();
  pen.lineWidth = 0.6; pen.strokeStyle = css("--ground"); pen.stroke();
}

function points(pen, at, places, predicted) {
  places.forEach(([x, y], i) => marker(pen, ...at(x, y), data.labels[i], 3.4));
  places.forEach(([x, y], i) => {
    if (predicted[i] === data.labels[i]) return;
    pen.beginPath(); pen.arc(...at(x, y), 6.5, 0, 2 * Math.PI);
    pen.strokeStyle = css("--ink"); pen.lineWidth = 1; pen.stroke();
  });
  const [x, y] = at(...places[data.examples[state.example].index]);
  pen.beginPath(); pen.arc(x, y, 9, 0, 2 * Math.PI);
  pen.strokeStyle = css("--accent"); pen.lineWidth = 3; pen.stroke();
}

// ---- 1: the lines ----

function clipped([a, b, c], [[x0, x1], [y0, y1]]) { // where a x + b y + c = 0 meets the border
  const found = [];
  for (const x of [x0, x1]) { const y = -(a * x + c) / b; if (y >= y0 && y <= y1) found.push([x, y]); }
  for (const y of [y0, y1]) { const x = -(b * y + c) / a; if (x > x0 && x < x1) found.push([x, y]); }
  return found.length >= 2 ? found.slice(0, 2) : null;
}

function drawLines(now) {
  const [pen, width, height] = prepared("lines"), {limits, axes} = data.plane;
  const at = frame(pen, width, height, limits, axes);
  regions(pen, at, limits, now.winner);
  points(pen, at, data.plane.points, now.predicted);
  let outside = 0;
  const named = [];
  now.lines.forEach((line, unit) => {
    const ends = clipped(line, limits);
    if (!ends) { outside++; return; }
    const [[ax, ay], [bx, by]] = ends.map(([x, y]) => at(x, y));
    pen.strokeStyle = css("--ink"); pen.lineWidth = 1.5;
    pen.beginPath(); pen.moveTo(ax, ay); pen.lineTo(bx, by); pen.stroke();
    const middle = [(ax + bx) / 2, (ay + by) / 2], length = Math.hypot(bx - ax, by - ay) || 1;
    let normal = [-(by - ay) / length, (bx - ax) / length];
    const probe = inverse(middle[0] + normal[0], middle[1] + normal[1], width, height, limits);
    if (line[0] * probe[0] + line[1] * probe[1] + line[2] < 0) normal = normal.map((v) => -v);
    const tip = middle.map((v, i) => v + 14 * normal[i]);
    pen.beginPath(); pen.moveTo(...middle); pen.lineTo(...tip); pen.stroke();
    pen.beginPath(); pen.arc(...tip, 2.5, 0, 2 * Math.PI); pen.fillStyle = css("--ink"); pen.fill();
    named.push([data.units[unit], (along) => [ax + along * (bx - ax), ay + along * (by - ay)]]);
  });
  const taken = []; // a name stands on its line where no other name is
  for (const [name, on] of named) {
    const free = ([x, y]) => taken.every(([p, q]) => Math.abs(p - x) > 26 || Math.abs(q - y) > 13);
    const spot = [0.12, 0.88, 0.24, 0.76, 0.36, 0.64, 0.06, 0.94, 0.18, 0.82, 0.3, 0.7].map(on).find(free) || on(0.5);
    taken.push(spot);
    pen.font = "bold 12px system-ui, sans-serif"; pen.textAlign = "center";
    pen.lineWidth = 3; pen.strokeStyle = css("--ground"); pen.strokeText(name, ...spot); pen.fillText(name, ...spot);
  }
  const notes = ["The dot is on the side where the unit is above 0. Ring: decided wrongly."];
  if (data.plane.note) notes.push(data.plane.note + ".");
  if (data.more) notes.push(`${data.more} more points are not drawn.`);
  if (data.unitsLeftOut) notes.push(`${data.unitsLeftOut} units that weigh less are left out.`);
  if (outside) notes.push(`Outside the picture: ${outside} of the lines.`);
  find("lines-note").textContent = notes.join(" ");
}

function inverse(px, py, width, height, [[x0, x1], [y0, y1]]) {
  return [x0 + (px - 42) / (width - 50) * (x1 - x0), y0 + (height - 30 - py) / (height - 38) * (y1 - y0)];
}

// ---- 2: behind ReLU ----

function drawHidden(now) {
  const [pen, width, height] = prepared("hidden"), {limits, axes, note, winner} = now.hidden;
  const at = frame(pen, width, height, limits, axes);
  regions(pen, at, limits, winner);
  if (data.classes.length === 2 && limits[0][0] < 0 && limits[0][1] > 0) {
    pen.strokeStyle = css("--ink"); pen.lineWidth = 2;
    pen.beginPath(); pen.moveTo(...at(0, limits[1][0])); pen.lineTo(...at(0, limits[1][1])); pen.stroke();
  }
  points(pen, at, now.hidden.points, now.predicted);
  find("hidden-note").textContent = note + ".";
}

// ---- 3: the surface ----

function drawSurface(now) {
  const [pen, width, height] = prepared("surface"), size = Math.round(Math.sqrt(now.surface.length));
  const low = Math.min(0, ...now.surface), high = Math.max(0, ...now.surface), span = high - low || 1;
  const cos = Math.cos(state.turn), sin = Math.sin(state.turn), scale = Math.min(width, height) * 0.62;
  const project = (u, v, w) => { // u, v in [-1/2, 1/2]
    const x = u * cos - v * sin, depth = u * sin + v * cos;
    return [width / 2 + x * scale, height * 0.72 + depth * scale * 0.5 - (w - low) / span * height * 0.42, depth];
  };
  const corner = (i, j, w) => project(i / (size - 1) - 0.5, j / (size - 1) - 0.5, w);
  const floor = [[0, 0], [size - 1, 0], [size - 1, size - 1], [0, size - 1]].map(([i, j]) => corner(i, j, 0));
  const quads = [];
  for (let j = 0; j + 1 < size; j++) for (let i = 0; i + 1 < size; i++) {
    const four = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
    const heights = four.map(([a, b]) => now.surface[b * size + a]);
    const corners = four.map(([a, b], k) => corner(a, b, heights[k]));
    quads.push({corners, depth: corners[0][2] + corners[2][2], below: heights.reduce((sum, w) => sum + w, 0) < 0, label: parseInt(now.surfaceWinner[j * size + i], 36)});
  }
  quads.sort((a, b) => a.depth - b.depth);
  const polygon = (corners) => { pen.beginPath(); corners.forEach(([x, y], i) => i ? pen.lineTo(x, y) : pen.moveTo(x, y)); pen.closePath(); };
  const drawn = (list) => list.forEach((quad) => {
    polygon(quad.corners); pen.fillStyle = colour(quad.label); pen.globalAlpha = 0.75; pen.fill();
    pen.globalAlpha = 1; pen.strokeStyle = css("--mesh"); pen.lineWidth = 0.5; pen.stroke();
  });
  drawn(quads.filter((quad) => quad.below));
  polygon(floor); pen.globalAlpha = 0.35; pen.fillStyle = css("--line"); pen.fill();
  pen.globalAlpha = 1; pen.strokeStyle = css("--soft"); pen.lineWidth = 1; pen.stroke();
  drawn(quads.filter((quad) => !quad.below));
  const what = data.classes.length === 2 ? "m(x) = lin(hidden; w, b)" : "lead of the best score";
  pen.fillStyle = css("--soft"); pen.textAlign = "left";
  pen.fillText(`${what}: ${Number(low.toPrecision(3))} … ${Number(high.toPrecision(3))}`, 8, 16);
  find("surface-note").textContent = "The grey sheet is 0, colours are the decision. Drag, or press the arrow keys, to turn."
    + (data.plane.note ? " Over the plane of picture 1." : "");
}

// ---- 4: one example ----

function showGraph() {
  const example = data.examples[state.example], now = data.checkpoints[state.checkpoint];
  const decided = data.classes[now.predicted[example.index]];
  find("example-told").textContent = `is ${example.label}, decided as ${decided}`
    + (decided === example.label ? "" : " (wrong)") + "; press → in the picture to step through both sweeps";
  const graph = JSON.stringify(data.graphs[state.checkpoint][state.example]).replace(/<\//g, "<\\/");
  find("graph").srcdoc = data.viewer.replace("@DATA@", () => graph);
}

// ---- the state ----

function show(graphToo = true) {
  const now = data.checkpoints[state.checkpoint];
  slider.value = state.checkpoint;
  chooser.value = state.example;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  find("told").textContent = `step ${now.step}: loss ${now.loss.toPrecision(4)}, right ${percent(now.accuracy)} of training, ${percent(now.heldOut)} of held-out points`;
  for (const id of ["lines", "hidden", "surface"]) find(id).setAttribute("aria-label", `${find(id).previousSibling.textContent}, at step ${now.step}`);
  drawLines(now); drawHidden(now); drawSurface(now);
  if (graphToo) showGraph();
}

function play() {
  if (state.playing) { clearInterval(state.playing); state.playing = 0; find("play").textContent = "Play"; showGraph(); return; }
  if (state.checkpoint === data.checkpoints.length - 1) state.checkpoint = 0;
  find("play").textContent = "Stop";
  show(false);
  state.playing = setInterval(() => {
    state.checkpoint++;
    show(false);
    if (state.checkpoint === data.checkpoints.length - 1) play();
  }, 350);
}

slider.max = data.checkpoints.length - 1;
slider.addEventListener("input", () => { state.checkpoint = Number(slider.value); show(); });
chooser.append(...data.examples.map((example, number) => new Option(`${example.name} (point ${example.index}, ${example.label})`, number)));
chooser.addEventListener("change", () => { state.example = Number(chooser.value); show(); });
find("play").addEventListener("click", play);
find("lines").addEventListener("click", (event) => { // the nearest of the examples
  const box = find("lines").getBoundingClientRect();
  const [x, y] = inverse(event.clientX - box.left, event.clientY - box.top, box.width, box.height, data.plane.limits);
  const [[x0, x1], [y0, y1]] = data.plane.limits;
  const distance = ({index}) => Math.hypot((data.plane.points[index][0] - x) / (x1 - x0), (data.plane.points[index][1] - y) / (y1 - y0));
  state.example = data.examples.map(distance).reduce((best, d, i, all) => d < all[best] ? i : best, 0);
  show();
});
const turn = (by) => { state.turn += by; drawSurface(data.checkpoints[state.checkpoint]); };
let held = null;
find("surface").addEventListener("pointerdown", (event) => { held = event.clientX; find("surface").setPointerCapture(event.pointerId); });
find("surface").addEventListener("pointermove", (event) => { if (held !== null) { turn((event.clientX - held) / 150); held = event.clientX; } });
find("surface").addEventListener("pointerup", () => { held = null; });
find("surface").addEventListener("keydown", (event) => { if (event.key === "ArrowLeft" || event.key === "ArrowRight") { turn(event.key === "ArrowLeft" ? -0.15 : 0.15); event.preventDefault(); } });
document.addEventListener("keydown", (event) => { if (event.key === " " && !["BUTTON", "SELECT"].includes(event.target.tagName)) { play(); event.preventDefault(); } });
window.addEventListener("resize", () => show(false));
const legend = () => find("legend").replaceChildren(...data.classes.map((name, label) => {
  const entry = document.createElement("span"), canvas = document.createElement("canvas");
  canvas.width = canvas.height = 28;
  Object.assign(canvas.style, {width: "14px", height: "14px", border: "0", display: "inline-block", aspectRatio: "auto", verticalAlign: "-2px"});
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  marker(pen, 7, 7, label, 4.5);
  entry.append(canvas, ` ${name}`);
  return entry;
}));
dark.addEventListener("change", () => { legend(); show(false); });
legend();
show();
