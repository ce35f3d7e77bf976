"use strict";
// The page of a drawing. `placement.py` and `render_svg.py` do the same for the still picture.
const data = JSON.parse(document.getElementById("data").textContent);
const M = data.measures;
const find = (id) => document.getElementById(id);
const view = find("view"), scene = find("scene"), story = find("story"), slider = find("slider");
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})[c]);
const MOST_OPEN = 6000;

// ---- where things are ----

const opened = new Set(data.opened);

function visibleBoxes() {
  const visible = new Set([0]);
  for (const number of [...opened].sort((a, b) => a - b)) {
    const level = data.levels[number];
    if (level && (level.parent < 0 || visible.has(level.parent))) visible.add(number);
  }
  return visible;
}

function vertexSize([kind, what], sizes) {
  return kind === "item" ? data.items[what].size : kind === "box" ? sizes[what] : [4, 0];
}

function settle(layer, centres, widths, near) {
  const wanted = layer.map((v) => near[v].length ? near[v].reduce((sum, o) => sum + centres[o], 0) / near[v].length : centres[v]);
  const left = wanted.slice(), right = wanted.slice();
  const apart = (i, j) => (widths[layer[i]] + widths[layer[j]]) / 2 + M.gapX;
  for (let i = 1; i < layer.length; i++) left[i] = Math.max(wanted[i], left[i - 1] + apart(i, i - 1));
  for (let i = layer.length - 2; i >= 0; i--) right[i] = Math.min(wanted[i], right[i + 1] - apart(i, i + 1));
  layer.forEach((v, i) => { centres[v] = (left[i] + right[i]) / 2; });
}

function horizontal(level, widths) {
  const above = widths.map(() => []), below = widths.map(() => []);
  for (const [a, b] of level.segments) { above[b].push(a); below[a].push(b); }
  const centres = widths.map(() => 0);
  for (const layer of level.layers) {
    let x = 0;
    for (const v of layer) { centres[v] = x + widths[v] / 2; x += widths[v] + M.gapX; }
    for (const v of layer) centres[v] -= (x - M.gapX) / 2;
  }
  for (let round = 0; round < M.rounds; round++) {
    const down = round % 2 === 0;
    for (const layer of down ? level.layers : level.layers.slice().reverse()) settle(layer, centres, widths, down ? above : below);
  }
  return centres;
}

function span(kind, entered, top, layer, own) {
  if (kind === "in") return [M.header, M.header];
  if (kind === "point") return [top, top + layer];
  const begin = top + (entered ? (layer - own) / 2 : layer - own);
  return [begin, begin + own];
}

function gap(level, layer, following) {
  if (following.every((v) => level.vertices[v][0] === "out")) return 6;
  return layer.every((v) => level.vertices[v][0] === "in") ? M.gapY * 0.6 : M.gapY;
}

function placeLevel(level, sizes, narrowest) {
  const measures = level.vertices.map((what) => vertexSize(what, sizes));
  const centres = horizontal(level, measures.map((m) => m[0]));
  let left = 0, right = 0;
  centres.forEach((c, i) => { left = Math.min(left, c - measures[i][0] / 2); right = Math.max(right, c + measures[i][0] / 2); });
  const width = Math.max(right - left, narrowest - 2 * M.padding);
  const shift = M.padding - left + (width - (right - left)) / 2;
  const spans = measures.map(() => [0, 0]);
  const entered = new Set(level.segments.map(([, b]) => b));
  let y = M.header + M.padding;
  level.layers.forEach((layer, i) => {
    const height = layer.reduce((most, v) => Math.max(most, measures[v][1]), 0);
    for (const v of layer) spans[v] = span(level.vertices[v][0], entered.has(v), y, height, measures[v][1]);
    y += height + (i + 1 < level.layers.length ? gap(level, layer, level.layers[i + 1]) : 0);
  });
  const height = y + M.padding;
  level.vertices.forEach(([kind], v) => { if (kind === "out") spans[v] = [height, height]; });
  return [centres.map((c, v) => [c + shift, ...spans[v]]), [width + 2 * M.padding, height]];
}

function place() {
  const visible = visibleBoxes(), order = [...visible].sort((a, b) => a - b);
  const sizes = data.boxes.map((box) => box.size), inner = {};
  for (const number of order.slice().reverse()) [inner[number], sizes[number]] = placeLevel(data.levels[number], sizes, data.boxes[number].size[0]);
  const corners = {0: [0, 0]}, items = {};
  for (const number of order) {
    const [left, top] = corners[number];
    data.levels[number].vertices.forEach(([kind, what], v) => {
      const [x, y] = inner[number][v];
      if (kind === "item") items[what] = [left + x - data.items[what].size[0] / 2, top + y];
      else if (kind === "box") corners[what] = [left + x - sizes[what][0] / 2, top + y];
    });
  }
  const found = {visible, sizes, corners, items, links: linkPoints(visible, inner, corners), upward: new Set()};
  for (const number of order) if (data.boxes[number].kind === "backward") turnOver(found, number);
  return found;
}

function turnOver(found, number) { // the gradient's program runs upwards
  const whole = 2 * found.corners[number][1] + found.sizes[number][1] + M.header, turned = new Set([number]);
  for (const box of [...found.visible].sort((a, b) => a - b)) {
    if (turned.has(data.levels[box].parent)) turned.add(box);
    if (!turned.has(box)) continue;
    for (const [kind, what] of data.levels[box].vertices) {
      if (kind === "item") found.items[what] = [found.items[what][0], whole - found.items[what][1] - data.items[what].size[1]];
      else if (kind === "box") { found.corners[what] = [found.corners[what][0], whole - found.corners[what][1] - found.sizes[what][1]]; found.upward.add(what); }
    }
  }
  for (const link of found.links) if (turned.has(data.routes[link.number][0][0])) link.points = link.points.map(([x, y]) => [x, whole - y]);
}

function crossingText() {
  const seen = data.crossings.filter((number) => { const [source, target] = data.links[number]; return placed.items[source] && placed.items[target]; });
  if (seen.length > M.crossings) return "";
  return seen.map((number) => {
    const [source, target] = data.links[number], [w, h] = data.items[source].size;
    const x = placed.items[source][0] + w, y = placed.items[source][1] + h / 2, tx = placed.items[target][0], ty = placed.items[target][1] + data.items[target].size[1] / 2;
    return `<path class="crossing" data-target="${target}" d="M${x} ${y}C${x + 40} ${y} ${tx - 40} ${ty} ${tx} ${ty}"/>`;
  }).join("");
}

function linkPoints(visible, inner, corners) {
  const found = [], alike = new Map();
  data.routes.forEach((route, number) => {
    const way = route.filter(([box]) => visible.has(box)).flatMap(([box, first, second]) => {
      const {rank, passing} = data.levels[box], between = Math.max(0, rank[second] - rank[first] - 1);
      return [first, ...passing[first].slice(0, between), second].map((v) => [box, v]);
    });
    if (way.length < 2) return;
    const [first, last] = [way[0], way[way.length - 1]], key = `${first} ${last}`;
    const twins = alike.get(key) || [];
    const ends = [first, last].map(([box, v]) => data.levels[box].vertices[v]);
    if (twins.length && ends.some(([kind]) => kind !== "item")) return;
    const points = [];
    way.forEach(([box, v], i) => {
      const [kind, what] = data.levels[box].vertices[v];
      if (kind === "box" && visible.has(what)) return;
      const [left, top] = corners[box], [x, begin, end] = inner[box][v];
      if (i > 0) points.push([left + x, top + begin]);
      if (i === 0 || (kind === "point" && end > begin)) points.push([left + x, top + end]);
    });
    const link = {number, points, bow: 0};
    twins.push(link); alike.set(key, twins); found.push(link);
  });
  for (const twins of alike.values()) twins.forEach((link, i) => { link.bow = (i - (twins.length - 1) / 2) * M.bow; });
  return found;
}

// ---- drawing ----

function curve(points, bow) {
  let [x, y] = points[0];
  x += bow * 0.35;
  let path = `M${x} ${y}`;
  points.slice(1).forEach(([tx, ty], i) => {
    const end = tx + (i + 2 === points.length ? bow * 0.35 : bow), half = (ty - y) / 2, bend = points.length === 2 ? bow : 0;
    path += `C${x + bend} ${y + half} ${end + bend} ${ty - half} ${end} ${ty}`;
    x = end; y = ty;
  });
  return path;
}

function itemText(number, [x, y]) {
  const item = data.items[number], [w, h] = item.size;
  const classes = ["item", item.kind, item.output ? "output" : "", item.active ? "" : "inactive"].join(" ");
  const rows = item.rows.map((row, i) => `<text xml:space="preserve" x="${x + 9}" y="${y + 5 + M.line * (i + 0.75)}">${
    row.map(([kind, text]) => `<tspan class="${kind}">${escape(text)}</tspan>`).join("")}</text>`).join("");
  return `<g class="thing" data-item="${number}"><title>${escape(item.forward)}\n${escape(item.line)}</title><rect class="${classes}" x="${x}" y="${y}" width="${w}" height="${h}" rx="${item.kind === "input" ? 12 : 3}"/>${rows}</g>`;
}

function boxText(number, placed) {
  const box = data.boxes[number], [x, y] = placed.corners[number], [w, h] = placed.sizes[number], open = placed.visible.has(number);
  const fixed = !data.levels[number];
  const action = fixed ? "" : ` tabindex="0" role="button" aria-expanded="${open}"`;
  const sign = fixed ? "" : open ? "− " : "+ ";
  return `<g class="handle" data-box="${number}"${action} aria-label="${escape(box.label.join(", "))}"><rect class="box ${escape(box.kind)}${open ? "" : " closed"}" x="${x}" y="${y}" width="${w}" height="${h}" rx="8"/><text class="boxlabel" x="${x + 8}" y="${open && placed.upward.has(number) ? y + h - 8 : y + 17}">${sign}${escape(box.label[0])}</text>${open ? "" : `<text class="type" x="${x + 8}" y="${y + 34}">${escape(box.label[1])}</text>`}</g>`;
}

function partialText({number, points, bow}) {
  const [, , partial, active] = data.links[number];
  if (!partial || !active) return "";
  const [x, y] = points[points.length - 1], [fx, fy] = points[points.length - 2];
  const at = x + (fx - x) * Math.min(1, 26 / Math.max(1, y - fy)) * 0.55 + bow * 0.9;
  const left = (bow || fx - x) < 0;
  return `<text class="partial" text-anchor="${left ? "end" : "start"}" x="${at + (left ? -5 : 5)}" y="${y - 17}">∂ ${escape(partial)}</text>`;
}

let placed = null;

function draw() {
  placed = place();
  const boxes = Object.keys(placed.corners).map(Number).filter((n) => n > 0).sort((a, b) => a - b);
  const links = placed.links.map((link) => {
    const [source, target, , active] = data.links[link.number], end = link.points[link.points.length - 1];
    return `<path class="link${active ? "" : " inactive"}" data-source="${source}" data-target="${target}" d="${curve(link.points, link.bow)}"/><path class="arrow" d="M${end[0] + link.bow * 0.35} ${end[1]}l-3.5 ${end[1] < link.points[0][1] ? 7 : -7}h7z"/>`;
  });
  scene.innerHTML = boxes.map((n) => boxText(n, placed)).join("") + crossingText() + links.join("") +
    Object.entries(placed.items).map(([n, corner]) => itemText(Number(n), corner)).join("") + placed.links.map(partialText).join("");
  showStep();
}

// ---- pan and zoom ----

const eye = {x: 0, y: 0, scale: 1};

function look() {
  scene.setAttribute("transform", `translate(${eye.x} ${eye.y}) scale(${eye.scale})`);
  scene.classList.toggle("far", eye.scale < 0.3);
}

function zoom(factor, x = view.clientWidth / 2, y = view.clientHeight / 2) {
  const scale = Math.min(4, Math.max(0.01, eye.scale * factor)), ratio = scale / eye.scale;
  Object.assign(eye, {x: x - (x - eye.x) * ratio, y: y - (y - eye.y) * ratio, scale});
  look();
}

function fit() {
  const [w, h] = placed.sizes[0];
  eye.scale = Math.min(1.6, (view.clientWidth - 20) / w, (view.clientHeight - 20) / h);
  if (eye.scale < 0.45) eye.scale = Math.min(0.8, Math.max(eye.scale, (view.clientWidth - 20) / w)); // tall: begin at the top
  eye.x = (view.clientWidth - w * eye.scale) / 2;
  eye.y = Math.max(6, (view.clientHeight - h * eye.scale) / 2);
  look();
}

function begin() { // what is too wide to be read begins where the program does; 0 shows the whole of it
  fit();
  if (eye.scale >= 0.3) return;
  const boxes = Object.entries(placed.corners).filter(([number]) => number > 0).map(([, corner]) => corner);
  const [x, y] = [...Object.values(placed.items), ...boxes].reduce((first, corner) => corner[1] < first[1] ? corner : first);
  Object.assign(eye, {scale: 0.6, x: view.clientWidth / 2 - x * 0.6, y: 24 - y * 0.6});
  look();
}

const fingers = new Map();
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  const at = view.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - at.left, event.clientY - at.top);
}, {passive: false});
view.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, [event.clientX, event.clientY]); dragged = 0; });
view.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = [event.clientX, event.clientY], other = [...fingers].find(([id]) => id !== event.pointerId);
  fingers.set(event.pointerId, now);
  dragged += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
  if (dragged > 4 && !view.hasPointerCapture(event.pointerId)) view.setPointerCapture(event.pointerId);
  if (other) {
    const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]), at = view.getBoundingClientRect();
    zoom(far(now, other[1]) / Math.max(1, far(before, other[1])), other[1][0] - at.left, other[1][1] - at.top);
  } else { eye.x += now[0] - before[0]; eye.y += now[1] - before[1]; look(); }
  view.classList.add("dragging");
});
for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, (event) => { fingers.delete(event.pointerId); view.classList.remove("dragging"); });
let dragged = 0;

// ---- opening and closing ----

function toggle(number) {
  if (!data.levels[number]) return;
  const before = placed.corners[number];
  opened.has(number) ? opened.delete(number) : opened.add(number);
  draw();
  const now = placed.corners[number]; // the box that was clicked stays where it is
  eye.x += (before[0] - now[0]) * eye.scale; eye.y += (before[1] - now[1]) * eye.scale;
  look();
  scene.querySelector(`[data-box="${number}"]`)?.focus({preventScroll: true});
}

function openAll() {
  let shown = 0;
  data.levels.forEach((level, number) => { if (level && (shown += level.vertices.filter(([kind]) => kind === "item").length) < MOST_OPEN) opened.add(number); });
  draw(); fit();
}

function closeAll() { opened.clear(); opened.add(0); draw(); fit(); }

scene.addEventListener("click", (event) => {
  if (dragged > 4) return;
  const thing = event.target.closest("[data-item]"), handle = event.target.closest("[data-box]");
  if (thing) { const i = steps.indexOf(Number(thing.dataset.item)); if (i >= 0) { stop(); go(position > n ? 2 * n - i : i + 1); } }
  else if (handle) toggle(Number(handle.dataset.box));
});

// ---- stepping: 0 nothing has run, n all values are known, 2n all cotangents are ----

const steps = data.items.flatMap((item, number) => item && item.kind === "op" ? [number] : []);
const stepOf = new Map(steps.map((number, i) => [number, i]));
const readers = data.items.map(() => []), homes = {};
for (const [source, target, , active] of data.links) if (active && stepOf.has(target)) readers[source].push(stepOf.get(target));
data.levels.forEach((level, box) => level && level.vertices.forEach(([kind, what]) => { if (kind === "item") homes[what] = box; }));
const n = steps.length, end = data.both ? n : 2 * n; // with both programs in the picture each is stepped through once
let position = end, timer = 0;
slider.max = end;

function current() {
  if (position === 0 || position > 2 * n) return null;
  return position <= n ? steps[position - 1] : steps[2 * n - position];
}

function shownFor(number) { // the item, or the outermost closed box around it
  let found = `[data-item="${number}"]`;
  for (let box = homes[number]; box >= 0; box = data.levels[box].parent) if (!placed.visible.has(box)) found = `[data-box="${box}"]`;
  return found;
}

function showStep() {
  const back = position > n, reached = back ? 2 * n - position : n, chosen = current();
  for (const element of scene.querySelectorAll(".current")) element.classList.remove("current");
  scene.classList.toggle("backward", back);
  for (const element of scene.querySelectorAll("[data-item]")) {
    const number = Number(element.dataset.item), step = stepOf.get(number);
    const known = step === undefined || step < position;
    const arrived = data.both ? known : back && (readers[number].every((reader) => reader >= reached));
    element.classList.toggle("pending", !known);
    for (const span of element.querySelectorAll(".value")) span.style.visibility = known ? "" : "hidden";
    for (const span of element.querySelectorAll(".ct")) span.style.visibility = arrived ? "" : "hidden";
  }
  if (chosen !== null) {
    scene.querySelector(shownFor(chosen))?.classList.add("current");
    if (back) for (const element of scene.querySelectorAll(`[data-target="${chosen}"]`)) element.classList.add("current");
  }
  slider.value = position;
  story.innerHTML = tell(chosen, back);
}

function tell(number, back) {
  if (number === null) return `<b>Before the forward sweep.</b> Step on with → or the buttons.\nKeys: ← → step, space play, Home End, + − 0 zoom, shift+arrows pan, e c open and close boxes, Enter on a box.`;
  const item = data.items[number], short = item.expression.length > 90 ? item.expression.slice(0, 89) + "…" : item.expression,
    place = `${escape(item.line)}    ${escape(short)}`;
  if (!back) return `<b>${data.both ? "Step" : "Forward"} ${position} of ${n}</b>   ${place}\n${escape(item.forward)}`;
  const sums = item.backward.length ? item.backward.map(escape).join("\n") : "no cotangent flows through it";
  const done = position === 2 * n ? "   (the sweep is complete)" : "";
  return `<b class="back">Backward ${position - n} of ${n}</b>   ${place}${done}\n${escape(item.forward)}\n${sums}`;
}

function go(to) {
  position = Math.min(end, Math.max(0, to));
  showStep();
  const chosen = current(), element = chosen === null ? null : scene.querySelector(shownFor(chosen));
  if (!element) return;
  const spot = element.getBoundingClientRect(), frame = view.getBoundingClientRect();
  if (spot.left < frame.left || spot.right > frame.right || spot.top < frame.top || spot.bottom > frame.bottom) {
    eye.x += frame.left + frame.width / 2 - (spot.left + spot.width / 2);
    eye.y += frame.top + frame.height / 2 - (spot.top + spot.height / 2);
    look();
  }
}

function stop() { clearInterval(timer); timer = 0; find("play").textContent = "Play"; }

function play() {
  if (timer) return stop();
  if (position >= end) position = 0;
  find("play").textContent = "Stop";
  timer = setInterval(() => { go(position + 1); if (position >= end) stop(); }, 900);
}

const buttons = {
  "zoom-in": () => zoom(1.3), "zoom-out": () => zoom(1 / 1.3), fit, "open-all": openAll, "close-all": closeAll, play,
  first: () => { stop(); go(0); }, back: () => { stop(); go(position - 1); },
  next: () => { stop(); go(position >= end ? 0 : position + 1); }, last: () => { stop(); go(end); },
};
for (const [id, action] of Object.entries(buttons)) find(id).addEventListener("click", action);
slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });

const keys = {
  "ArrowRight": buttons.next, "ArrowLeft": buttons.back, "Home": buttons.first, "End": buttons.last,
  "+": buttons["zoom-in"], "=": buttons["zoom-in"], "-": buttons["zoom-out"], "0": fit, "e": openAll, "c": closeAll,
};
const pans = {"ArrowRight": [-60, 0], "ArrowLeft": [60, 0], "ArrowUp": [0, 60], "ArrowDown": [0, -60]};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const handle = event.target.closest?.("[data-box]");
  if (handle && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); return toggle(Number(handle.dataset.box)); }
  if (event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter")) return;
  if (event.shiftKey && pans[event.key]) { eye.x += pans[event.key][0]; eye.y += pans[event.key][1]; look(); }
  else if (event.key === "ArrowUp" || event.key === "ArrowDown") { eye.y += pans[event.key][1]; look(); }
  else if (event.key === " ") play();
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});

find("note").textContent = data.note;
draw();
begin();
window.addEventListener("resize", look);
