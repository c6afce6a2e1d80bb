/* The page on anchors: what it shows and what a person can touch. All numbers come from rpn.js.
 *
 * One state, seven steps. A change of weights, anchors or objects is computed once (`changed`), and each step that is in
 * view is drawn anew. Text from a run is written with textContent. */

const content = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const { image, coder } = content;
const levels = content.levels.map((level) => ({ ...level, map: floats(level.map) }));
const trainedHead = readHead(content.head);
const COUNT = levels.reduce((sum, level) => sum + level.rows * level.columns * level.k, 0);

function readHead({ outputs, conv, ...rest }) {
  const pairs = Object.entries(outputs).map(([k, pair]) => [k, { scores: layer(...pair.scores), deltas: layer(...pair.deltas) }]);
  return { ...rest, conv: conv && layer(...conv), outputs: Object.fromEntries(pairs) };
}

const clone = (value) => JSON.parse(JSON.stringify(value));
const state = {};

/* What the page starts with, and returns to. */
function start() {
  const [level, row, column, j] = content.start;
  Object.assign(state, {
    head: copyOf(trainedHead), weights: "trained", shapes: clone(levels.map((one) => one.shapes)), boxes: content.boxes.map((box) => Float32Array.from(box)),
    place: { level, location: row * levels[level].columns + column, j }, rule: clone(content.assigner), sampler: { ...content.sampler, seed: 0 },
    row: { kind: "scores", index: content.head.perAnchor * (j + 1) - 1 }, as: "conv", rate: 0.1, curve: [], steps: 0, stage: "thinned", best: 20,
    selector: { ...clone(content.selector), perLevel: Math.min(content.selector.perLevel, 1000) }, trained: {}, generatorK: 1, headK: 3, large: 1.2, stride: levels[level].stride, wide: 800,
  });
  changed("weights", "anchors");
}

/* Compute what follows from a change of "weights", "anchors" (or objects, or the rule), "sample" or "selection". */
function changed(...what) {
  const any = (...names) => names.some((name) => what.includes(name));
  if (any("weights")) state.answer = forward(state.head, levels);
  if (any("anchors")) {
    state.anchors = anchorsOf(levels, state.shapes);
    state.assigned = assign(state.anchors);
    state.before = assign(original.anchors);
    state.trained = {};
    state.curve = []; // of another loss
  }
  if (any("anchors", "sample")) state.sample = sampleOf(state.assigned.label, state.sampler, state.sampler.seed);
  if (any("weights", "anchors", "sample")) state.loss = lossOf(state.head, levels, state.anchors, state.boxes, state.assigned, state.sample, coder, content.beta);
  if (any("weights", "anchors", "selection")) state.proposals = null; // found when step 5 is seen
  drawSoon();
}

const assign = (anchors) => (state.rule.kind === "atss" ? assignATSS(anchors, state.boxes, state.rule, levels) : assignMaxIoU(anchors, state.boxes, state.rule));
const original = { anchors: anchorsOf(levels, levels.map((one) => one.shapes)) };

/* ------------------------------------------------------------------------------------------------------ helpers */

function element(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  set(node, attributes);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value === false || value === null || value === undefined) node.removeAttribute(name);
    else node.setAttribute(name, value);
  }
}

const fill = (id, ...children) => byId(id).replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined));
const bold = (text) => element("b", {}, text);
const ink = (kind, text) => element("span", { class: `${kind}-ink` }, text);
const minus = (text) => text.replace(/^-(?=[\d.])/, "−");
const number = (value, digits = 3) => minus(Object.is(Number(value.toFixed(digits)), -0) ? (0).toFixed(digits) : value.toFixed(digits));
const signed = (value, digits = 3) => (value >= 0 ? "+" : "") + number(value, digits);
const many = (count) => count.toLocaleString("en");
const small = (value) => (value === 0 ? "0" : Math.abs(value) >= 0.001 ? number(value, 4) : minus(value.toExponential(1)).replace("e-", "e−"));
const plural = (count, word) => `${many(count)} ${word}${count === 1 ? "" : "s"}`;
const sides = (box) => `${number(box[2] - box[0], 0)} × ${number(box[3] - box[1], 0)}`;
const here = () => levels[state.place.level];
const gridOf = (level) => `${level.rows} × ${level.columns}`;
const anchorNumber = () => numberOf(levels, state.place);
const rowColumn = (place = state.place) => [Math.floor(place.location / levels[place.level].columns), place.location % levels[place.level].columns];
const same = (a, b) => a.length === b.length && a.every((value, i) => value === b[i]);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const LABELS = { [OBJECT]: "object", [BACKGROUND]: "background", [IGNORE]: "ignored" };

/* Buttons of which one is chosen: draws them, or marks the chosen one, so that the focus stays. */
function segments(id, choices, chosen, choose, label) {
  const holder = typeof id === "string" ? byId(id) : id;
  const key = JSON.stringify(choices.map(([value]) => value));
  if (holder.dataset.key !== key) {
    holder.dataset.key = key;
    set(holder, { role: "group", "aria-label": label });
    holder.replaceChildren(...choices.map(([value]) => element("button", { type: "button", "data-value": value, onclick: () => holder.choose(value) })));
  }
  holder.choose = choose;
  [...holder.children].forEach((button, at) => {
    button.replaceChildren(...[choices[at][1]].flat());
    button.setAttribute("aria-pressed", String(choices[at][0] === chosen));
  });
}

/* A slider that is made once and then told its value. */
const sliders = new Map();
function slider(holder, key, { label, min, max, step, value, show, input }) {
  const id = `${holder}-${key}`;
  if (!sliders.has(id)) {
    const range = element("input", { type: "range", id, min, max, step }), output = element("output", { for: id });
    range.addEventListener("input", () => sliders.get(id).input(Number(range.value)));
    byId(holder).append(element("label", {}, element("span", {}), range, output));
    sliders.set(id, { range, output, name: range.previousSibling });
  }
  const one = sliders.get(id);
  one.input = input;
  one.name.textContent = label;
  set(one.range, { min, max, step });
  if (Number(one.range.value) !== value) one.range.value = value;
  const text = show ? show(value) : String(value);
  one.output.textContent = text;
  one.range.setAttribute("aria-valuetext", text);
}

function checkbox(holder, key, label, value, input) {
  const id = `${holder}-${key}`;
  if (!sliders.has(id)) {
    const box = element("input", { type: "checkbox", id });
    box.addEventListener("change", () => sliders.get(id).input(box.checked));
    byId(holder).append(element("label", { class: "check" }, box, element("span", {}, label)));
    sliders.set(id, { box });
  }
  sliders.get(id).input = input;
  sliders.get(id).box.checked = value;
}

function emptied(holder, key) {
  if (byId(holder).dataset.kind === key) return;
  byId(holder).dataset.kind = key;
  byId(holder).replaceChildren();
  for (const id of [...sliders.keys()]) if (id.startsWith(`${holder}-`)) sliders.delete(id);
}

const button = (text, onclick, more = {}) => element("button", { type: "button", onclick, ...more }, text);

/* A rectangle of a shape, as large as its neighbours' scale allows. */
function glyph([w, h], size = 18, largest = Math.max(w, h)) {
  const scale = (size - 2) / largest, width = Math.max(2, w * scale), height = Math.max(2, h * scale);
  return element("svg:svg", { width: size, height: size, viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true" },
    element("svg:rect", { x: (size - width) / 2, y: (size - height) / 2, width, height, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }));
}

/* ------------------------------------------------------------------------------------------------- number strips */

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let inks = null; // of the theme
function inkOf(value, most) {
  inks ??= { positive: css("--positive").split(" ").map(Number), negative: css("--negative").split(" ").map(Number) };
  return [...(value < 0 ? inks.negative : inks.positive), most > 0 ? Math.min(1, Math.abs(value) / most) ** 0.7 : 0];
}

/* Numbers as cells of one row: blue above 0, red below, the stronger the larger. */
function strip(canvas, values, most = Math.max(...values.map(Math.abs))) {
  set(canvas, { width: values.length, height: 1 });
  canvas.style.imageRendering = "pixelated";
  const context = canvas.getContext("2d"), pixels = context.createImageData(values.length, 1);
  values.forEach((value, i) => {
    const [r, g, b, a] = inkOf(value, most);
    pixels.data.set([r, g, b, 255 * a], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

const HEAT = [[32, 36, 43], [123, 63, 157], [242, 163, 60], [255, 243, 176]];
function heatOf(share) {
  const at = clamp(share, 0, 1) * (HEAT.length - 1), low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((c, i) => c + (HEAT[low + 1][i] - c) * (at - low));
}

/* P(object) of channel j at every cell of a level, as the address of a picture. */
function heatPicture(level, j) {
  const { rows, columns, k } = levels[level], canvas = element("canvas", { width: columns, height: rows });
  const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
  for (let at = 0; at < rows * columns; at++) {
    const p = sigmoid(state.answer.logits[numberOf(levels, { level, location: at, j })]);
    pixels.data.set([...heatOf(p), 255 * (0.25 + 0.6 * Math.sqrt(p))], 4 * at);
  }
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

/* ------------------------------------------------------------------------------------------------------- scenes */

const centreOf = (level, location) => {
  const { offset, stepX, stepY, columns } = levels[level];
  return [((location % columns) + offset) * stepX, (Math.floor(location / columns) + offset) * stepY];
};
/* The cell of a level whose anchors are centred nearest to (x, y). */
function nearestCell(level, x, y) {
  const { rows, columns, stepX, stepY, offset } = levels[level];
  return clamp(Math.round(y / stepY - offset), 0, rows - 1) * columns + clamp(Math.round(x / stepX - offset), 0, columns - 1);
}
const cellRect = (level, location, around = 0) => {
  const [x, y] = centreOf(level, location), { stepX, stepY } = levels[level];
  return { x: x - (around + 0.5) * stepX, y: y - (around + 0.5) * stepY, width: (2 * around + 1) * stepX, height: (2 * around + 1) * stepY };
};
const rect = (box, name, more = {}) => element("svg:rect", { x: box[0], y: box[1], width: Math.max(0, box[2] - box[0]), height: Math.max(0, box[3] - box[1]), class: name, ...more });
const outlined = (box, name) => [rect(box, "halo"), rect(box, name)];
const MARGIN = 7;

/* The image with room around it; `layer` is drawn anew each time, objects stay (they may have the focus). */
function scene(id, { margin = MARGIN, picksCells = false, movesObjects = false, label }) {
  const box = `${-margin} ${-margin} ${image.width + 2 * margin} ${image.height + 2 * margin}`;
  const picture = element("svg:image", { href: image.source, x: 0, y: 0, width: image.width, height: image.height, preserveAspectRatio: "none" });
  const clip = element("svg:clipPath", { id: `${id}-clip` }, element("svg:rect", { x: 0, y: 0, width: image.width, height: image.height }));
  const under = element("svg:g"), objects = element("svg:g"), over = element("svg:g");
  const svg = element("svg:svg", { viewBox: box, class: picksCells ? "cells" : null, tabindex: picksCells ? 0 : null, role: picksCells ? "group" : "img", "aria-label": label }, clip, picture, under, objects, over);
  byId(id).replaceChildren(svg);
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [point.x, point.y];
  };
  if (picksCells) {
    svg.addEventListener("click", (event) => !event.target.closest("[data-drag]") && go({ location: nearestCell(state.place.level, ...at(event)) }));
    svg.addEventListener("keydown", (event) => event.target === svg && step(event));
  }
  const made = { svg, under, objects, over, at, clip: `url(#${id}-clip)` };
  if (movesObjects) objects.append(...content.boxes.map((_, g) => movable(made, g)));
  return made;
}

function go(place) {
  Object.assign(state.place, place);
  state.place.j = Math.min(state.place.j, here().k - 1);
  const rows = content.head.perAnchor * here().k, most = state.row.kind === "scores" ? rows : 4 * here().k;
  state.row.index = Math.min(state.row.index, most - 1);
  drawSoon();
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function step(event) {
  const way = ARROWS[event.key];
  if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const [row, column] = rowColumn(), { rows, columns } = here();
  go({ location: clamp(row + way[1], 0, rows - 1) * columns + clamp(column + way[0], 0, columns - 1) });
}

/* Another level: the cell over the same place. */
function toLevel(level) {
  const [x, y] = centreOf(state.place.level, state.place.location);
  go({ level, location: nearestCell(level, x, y), j: Math.min(state.place.j, levels[level].k - 1) });
}

function drag(node, made, begin, move) {
  node.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    event.stopPropagation();
    node.closest("g[tabindex]")?.focus({ preventScroll: true, focusVisible: false });
    node.setPointerCapture(event.pointerId);
    const from = made.at(event), memory = begin();
    const follow = (next) => { const to = made.at(next); move(memory, to[0] - from[0], to[1] - from[1], to); };
    node.addEventListener("pointermove", follow);
    node.addEventListener("lostpointercapture", () => node.removeEventListener("pointermove", follow), { once: true });
  });
}

const SMALLEST = 6;
function moveObject(g, [x1, y1, x2, y2]) {
  state.boxes[g] = Float32Array.from([x1, y1, x2, y2]);
  changed("anchors");
}
function shifted(box, dx, dy) {
  const [w, h] = [box[2] - box[0], box[3] - box[1]];
  const x = clamp(box[0] + dx, 0, Math.max(0, image.width - w)), y = clamp(box[1] + dy, 0, Math.max(0, image.height - h));
  return [x, y, x + w, y + h];
}
const stretched = (box, dx, dy) => [box[0], box[1], clamp(box[2] + dx, box[0] + SMALLEST, image.width), clamp(box[3] + dy, box[1] + SMALLEST, image.height)];

function movable(made, g) {
  const [halo, line, hand, grip] = ["halo", "truth", "hand", "grip"].map((name) => element("svg:rect", { class: name, "data-drag": name === "hand" || name === "grip" || null }));
  const tag = element("svg:text", { class: "tag" }, String(g + 1));
  const group = element("svg:g", { tabindex: 0, role: "group" }, halo, line, hand, tag, grip);
  drag(hand, made, () => state.boxes[g], (box, dx, dy) => moveObject(g, shifted(box, dx, dy)));
  drag(grip, made, () => state.boxes[g], (box, dx, dy) => moveObject(g, stretched(box, dx, dy)));
  group.addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way) return;
    event.preventDefault();
    moveObject(g, (event.shiftKey ? stretched : shifted)(state.boxes[g], 4 * way[0], 4 * way[1]));
  });
  group.place = (box) => {
    const size = { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] };
    for (const node of [halo, line, hand]) set(node, size);
    set(grip, { x: box[2] - 4.5, y: box[3] - 4.5, width: 9, height: 9 });
    set(tag, { x: box[0] + 3, y: box[1] + 10 });
    set(group, { "aria-label": `object ${g + 1}, ${sides(box)} pixels` });
  };
  return group;
}

function gridLines(level) {
  const { stepX, stepY, rows, columns, offset } = levels[level], [left, top] = [(offset - 0.5) * stepX, (offset - 0.5) * stepY];
  const lines = [];
  for (let c = 0; c <= columns; c++) lines.push(`M${left + c * stepX} ${top}V${top + rows * stepY}`);
  for (let r = 0; r <= rows; r++) lines.push(`M${left} ${top + r * stepY}H${left + columns * stepX}`);
  return element("svg:path", { class: "grid", d: lines.join(""), "clip-path": scenes.cell.clip });
}

const markedCell = () => ["here-edge", "here"].map((name) => element("svg:rect", { class: name, ...cellRect(state.place.level, state.place.location) }));

/* Buttons for level and j; `withJ` false where no anchor is meant. */
function placeControls(id, withJ) {
  const holder = byId(id);
  if (!holder.children.length) {
    holder.append(element("span", { class: "group" }, element("span", {}, "level, stride"), element("span", { class: "segments" })));
    if (withJ) holder.append(element("span", { class: "group" }, element("span", {}, "anchor j"), element("span", { class: "segments" })));
  }
  const [first, second] = holder.querySelectorAll(".segments");
  segments(first, levels.map((level, at) => [at, String(level.stride)]), state.place.level, toLevel, "level, by its stride");
  if (second) {
    const shapes = state.shapes[state.place.level], largest = Math.max(...shapes.flat());
    segments(second, shapes.map((shape, j) => [j, [glyph(shape, 18, largest), String(j)]]), state.place.j, (j) => go({ j }), "anchor of the cell");
  }
}

/* ------------------------------------------------------------------------------------------------ 1. one cell */

const outputName = (kind, index) => {
  if (kind === "deltas") return `j = ${Math.floor(index / 4)}  t_${"xywh"[index % 4]}`;
  return content.head.perAnchor === 2 ? `j = ${index >> 1}  ${index % 2 ? "object" : "backgr."}` : `j = ${index}  object`;
};

function drawCell() {
  const level = here(), [row, column] = rowColumn(), answer = answerAt(state.head, level, state.place.location);
  scenes.cell.under.replaceChildren(gridLines(state.place.level));
  scenes.cell.over.replaceChildren(element("svg:rect", { class: "around", ...cellRect(state.place.level, state.place.location, 1) }), ...markedCell());
  placeControls("cell-controls", false);
  byId("cell-caption").textContent = `Row ${row}, column ${column} of the map with ${gridOf(level)} cells. One cell stands for ${level.stride} × ${level.stride} pixels. The dashed square is what the 3×3 convolution reads.`;
  byId("cell-width").textContent = String(state.head.width);
  strip(byId("cell-hidden"), Array.from(answer.hidden));
  set(byId("cell-hidden"), { "aria-label": `the cell's ${state.head.width} numbers, the largest ${number(Math.max(...answer.hidden), 2)}` });
  drawMatrix(level, answer);
  drawSum(level, answer);
  drawAs(level, answer);
}

function drawMatrix(level, answer) {
  const holder = byId("cell-matrix"), pair = state.head.outputs[level.k], width = state.head.width;
  if (holder.dataset.k !== String(level.k)) {
    holder.dataset.k = level.k;
    holder.replaceChildren(...["scores", "deltas"].flatMap((kind) => {
      const count = pair[kind].bias.length, each = kind === "deltas" ? 4 : content.head.perAnchor;
      const title = element("div", { class: "title" }, kind === "scores" ? `scores: ${each === 2 ? "2" : ""}k = ${count} rows × ${width}` : `deltas: 4k = ${count} rows × ${width}`);
      return [title, ...Array.from({ length: count }, (_, index) => element("label", { class: index % each === 0 && index ? "begins" : null },
        element("input", { type: "radio", name: "row", value: `${kind} ${index}`, onchange: () => { state.row = { kind, index }; drawSoon(); } }),
        element("span", {}, outputName(kind, index)), element("canvas", {}), element("output", {})))];
    }));
  }
  for (const label of holder.querySelectorAll("label")) {
    const [input, , canvas, output] = label.children, [kind, index] = input.value.split(" ");
    strip(canvas, Array.from(pair[kind].weight.subarray(index * width, (Number(index) + 1) * width)), largestWeight(pair[kind]));
    output.textContent = number(answer[kind][index], 2);
    input.checked = kind === state.row.kind && Number(index) === state.row.index;
  }
}

const largestWeight = ({ weight }) => weight.reduce((most, w) => Math.max(most, Math.abs(w)), 0);

/* The chosen row's sum, its largest terms written out. */
function drawSum(level, answer) {
  const { kind, index } = state.row, one = state.head.outputs[level.k][kind], width = state.head.width;
  const terms = Array.from(answer.hidden, (h, i) => ({ h, w: one.weight[index * width + i] })).sort((a, b) => Math.abs(b.h * b.w) - Math.abs(a.h * a.w));
  const shown = terms.slice(0, 3), rest = terms.slice(3).reduce((sum, { h, w }) => sum + h * w, 0);
  fill("cell-sum", bold(`${outputName(kind, index)} = `), shown.map(({ h, w }) => `${number(h, 2)} · ${w < 0 ? `(${number(w, 2)})` : number(w, 2)} + `).join(""),
    `${number(rest, 2)} from ${width - shown.length} more + bias ${number(one.bias[index], 2)} = `, bold(number(answer[kind][index], 3)));
}

/* The convolution over the map and the linear layer over the table, each computed; the largest difference. */
function convolutionAndLinear(at) {
  const level = levels[at], { hidden } = state.answer.levels[at], width = state.head.width, locations = level.rows * level.columns;
  const pair = state.head.outputs[level.k];
  let difference = 0;
  for (const kind of ["scores", "deltas"]) {
    const { weight, bias } = pair[kind], outputs = bias.length;
    const table = new Float64Array(locations * outputs); // rows of the table times the matrix, row by row
    for (let l = 0; l < locations; l++) product(pair[kind], hidden.subarray(l * width, (l + 1) * width), table, l * outputs);
    for (let o = 0; o < outputs; o++) { // a map of outputs, channel by channel, as a convolution adds them up
      const map = new Float64Array(locations);
      for (let c = 0; c < width; c++) for (let l = 0; l < locations; l++) map[l] += weight[o * width + c] * hidden[l * width + c];
      for (let l = 0; l < locations; l++) difference = Math.max(difference, Math.abs(map[l] + bias[o] - table[l * outputs + o]));
    }
  }
  return difference;
}

function drawAs(level, answer) {
  const cells = level.rows * level.columns, outputs = answer.scores.length + answer.deltas.length, width = state.head.width, [row, column] = rowColumn();
  segments("cell-as", [["conv", "as a 1×1 convolution"], ["linear", "as nn.Linear"]], state.as, (as) => { state.as = as; drawSoon(); }, "two ways to see it");
  byId("cell-code").textContent = state.as === "conv"
    ? `# hidden (${width}, ${level.rows}, ${level.columns}), weight (${answer.scores.length}, ${width}, 1, 1)\nscores = F.conv2d(hidden, weight, bias)\nscores[:, ${row}, ${column}]  # this cell`
    : `# table (${many(cells)}, ${width}): one row a cell. weight (${answer.scores.length}, ${width})\nscores = F.linear(table, weight, bias)\nscores[${row} * ${level.columns} + ${column}]  # this cell`;
  fill("cell-same", state.as === "conv" ? "The matrix visits one cell at a time. Nothing is connected over space." : "The map is a table of examples. The layer multiplies each by the same matrix.",
    " Both ways, for all ", `${many(cells)} × ${outputs} outputs: the largest difference is `, bold(small(convolutionAndLinear(state.place.level))), ".");
}

/* ------------------------------------------------------------------------------------------- 2. another anchor */

function meaning(anchors, assigned) {
  const at = anchorNumber(), anchor = boxAt(anchors, at), deltas = state.answer.deltas.subarray(4 * at, 4 * at + 4);
  const ious = state.boxes.map((box) => iouOf(anchor, box)), best = ious.length ? ious.indexOf(Math.max(...ious)) : -1;
  const label = assigned.label[at], wanted = label === OBJECT ? encode(coder, anchor, state.boxes[assigned.box[at]]) : null;
  return { anchor, decoded: decode(coder, anchor, deltas), best, iou: best < 0 ? 0 : ious[best], label, wanted };
}

/* What the network said when its weights were last set, and what it says now: computed anew, whatever the anchors. */
function saidBeforeAndNow() {
  const { level, location, j } = state.place, per = content.head.perAnchor, { k } = here(), first = numberOf(levels, { level, location, j: 0 });
  const before = { scores: state.answer.levels[level].scores.subarray(location * k * per, (location + 1) * k * per), deltas: state.answer.deltas.subarray(4 * first, 4 * (first + k)), logits: state.answer.logits.subarray(first, first + k) };
  const now = answerAt(state.head, here(), location);
  const rows = [...(per === 2 ? [["background", (a) => a.scores[2 * j]], ["object", (a) => a.scores[2 * j + 1]]] : [["object", (a) => a.scores[j]]]),
    ["P(object)", (a) => sigmoid(a.logits[j])], ...["x", "y", "w", "h"].map((name, i) => [`t_${name}`, (a) => a.deltas[4 * j + i]])];
  return { before, now, rows };
}

/* How many of the image's outputs are the same as before, the whole head computed anew. */
function identicalOutputs() {
  const again = forward(state.head, levels);
  const equal = (a, b) => a.reduce((count, value, i) => count + (value === b[i]), 0);
  return equal(again.deltas, state.answer.deltas) + again.levels.reduce((sum, one, at) => sum + equal(one.scores, state.answer.levels[at].scores), 0);
}

function drawChange() {
  const { level, j } = state.place, now = meaning(state.anchors, state.assigned), before = meaning(original.anchors, state.before);
  scenes.change.under.replaceChildren(...state.boxes.flatMap((box) => outlined(box, "truth")));
  scenes.change.over.replaceChildren(...markedCell().slice(1), ...outlined(now.decoded, "box"), ...outlined(now.anchor, "anchor"));
  grip.place(now.anchor);
  placeControls("change-place", true);
  const [w, h] = state.shapes[level][j];
  slider("change-sliders", "size", { label: "size, √area", min: 2, max: 9, step: 0.01, value: clamp(Math.log2(Math.sqrt(w * h)), 2, 9), show: () => `${number(Math.sqrt(w * h), 0)} px`, input: (v) => reshape(2 ** v, h / w) });
  slider("change-sliders", "ratio", { label: "height / width", min: -3, max: 3, step: 0.02, value: clamp(Math.log2(h / w), -3, 3), show: () => number(h / w, 2), input: (v) => reshape(Math.sqrt(w * h), 2 ** v) });
  fill("change-moves", button("The run’s own anchor", () => { state.shapes[level][j] = [...levels[level].shapes[j]]; changed("anchors"); }), button("All of the run’s anchors", () => { state.shapes = clone(levels.map((one) => one.shapes)); changed("anchors"); }));
  drawSaid();
  drawMeans(before, now);
}

function reshape(size, ratio) {
  const { level, j } = state.place;
  state.shapes[level][j] = [size / Math.sqrt(ratio), size * Math.sqrt(ratio)].map((side) => clamp(side, 3, 1500));
  changed("anchors");
}

function drawSaid() {
  const { before, now, rows } = saidBeforeAndNow();
  const all = [...before.scores, ...before.deltas], again = [...now.scores, ...now.deltas], equal = all.filter((value, i) => value === again[i]).length;
  byId("change-badge").textContent = `${equal} of ${all.length} numbers identical`;
  fill("change-said", head("", "run’s anchor", "yours", ""), element("tbody", {}, rows.map(([name, read]) => element("tr", {}, element("th", { scope: "row" }, name),
    element("td", {}, number(read(before), 4)), element("td", {}, number(read(now), 4)), element("td", { class: read(before) === read(now) ? "equal" : "changed" }, read(before) === read(now) ? "=" : "≠")))));
}

const head = (...names) => element("thead", {}, element("tr", {}, names.map((name, at) => element("th", { scope: "col", class: at ? null : "text" }, name))));

function drawMeans(before, now) {
  const targets = ["x", "y", "w", "h"].map((name, i) => [`target t_${name}`, (m) => (m.wanted ? number(m.wanted[i], 3) : "none")]);
  const rows = [["anchor", (m) => sides(m.anchor)], ["decoded box", (m) => sides(m.decoded)], ["best IoU", (m) => number(m.iou, 3)], ["label", (m) => LABELS[m.label]], ...targets];
  const moved = rows.filter(([, read]) => read(before) !== read(now)).length;
  byId("change-moved").textContent = moved ? `${moved} of ${rows.length} lines changed` : "unchanged so far";
  byId("change-moved").className = `badge ${moved ? "moved" : "same"}`;
  fill("change-means", head("", "run’s anchor", "yours"), element("tbody", {}, rows.map(([name, read]) => element("tr", {}, element("th", { scope: "row" }, name),
    element("td", {}, read(before)), element("td", { class: read(before) === read(now) ? null : "changed" }, read(now))))));
  const labels = state.assigned.label.reduce((count, label, i) => count + (label !== state.before.label[i]), 0);
  fill("change-summary", "Over the whole image, computed anew: ", bold(many(identicalOutputs())), ` of ${many(COUNT * (content.head.perAnchor + 4))} outputs of the network are identical. `, bold(`${many(labels)} of ${many(COUNT)} labels changed.`));
}

/* The handle at the anchor's corner in step 2: dragging it changes width and height about the cell's centre. */
function anchorGrip(made) {
  const node = element("svg:rect", { class: "grip", width: 11, height: 11, "data-drag": true });
  drag(node, made, () => null, (_, dx, dy, [x, y]) => {
    const [cx, cy] = centreOf(state.place.level, state.place.location);
    state.shapes[state.place.level][state.place.j] = [Math.max(4, 2 * Math.abs(x - cx)), Math.max(4, 2 * Math.abs(y - cy))];
    changed("anchors");
  });
  made.svg.append(node);
  const edge = CHANGE_MARGIN - 6;
  node.place = (box) => set(node, { x: clamp(box[2], 8, image.width + edge) - 5.5, y: clamp(box[3], 8, image.height + edge) - 5.5 });
  return node;
}
const CHANGE_MARGIN = 26;

/* --------------------------------------------------------------------------------------------------- 3. labels */

function dots(level, j, label, radius) {
  const { rows, columns, stride } = levels[level];
  return Array.from({ length: rows * columns }, (_, location) => {
    const value = label[numberOf(levels, { level, location, j })], [cx, cy] = centreOf(level, location);
    const r = value === OBJECT ? clamp(0.36 * stride, 2.6, 8) : value === IGNORE ? clamp(0.24 * stride, 2, 6) : clamp(0.09 * stride, 0.8, 2);
    return element("svg:circle", { cx, cy, r: radius ?? r, class: `is-${{ [OBJECT]: "object", [IGNORE]: "ignore", [BACKGROUND]: "background" }[value]}` });
  });
}

function drawLabels() {
  const { level, location, j } = state.place, { assigned, rule } = state, at = anchorNumber();
  const [cx, cy] = centreOf(level, location);
  const veil = element("svg:rect", { class: "veil", x: 0, y: 0, width: image.width, height: image.height });
  scenes.labels.under.replaceChildren(veil, ...dots(level, j, assigned.label));
  scenes.labels.over.replaceChildren(...[rect(boxAt(state.anchors, at), "halo thin"), rect(boxAt(state.anchors, at), "anchor thin"), element("svg:circle", { cx, cy, r: clamp(0.5 * levels[level].stride, 4, 11), class: "is-chosen" })].map((node) => (set(node, { "pointer-events": "none" }), node)));
  [...scenes.labels.objects.children].forEach((group, g) => group.place(state.boxes[g]));
  placeControls("labels-place", true);
  segments("labels-rule", [["max_iou", "max-IoU (the paper)"], ["atss", "ATSS"]], rule.kind, (kind) => { rule.kind = kind; changed("anchors"); }, "assigner");
  emptied("labels-sliders", rule.kind);
  if (rule.kind === "max_iou") drawMaxIoU();
  else drawATSS();
  fill("labels-why", why(at));
  drawCounts();
}

function drawMaxIoU() {
  const { rule } = state;
  byId("labels-words").textContent = "An anchor is an object if its IoU with some object reaches the upper threshold, background if it stays below the lower one with all. Between the two it is ignored.";
  slider("labels-sliders", "foreground", { label: "object from IoU", min: 0.05, max: 0.95, step: 0.01, value: rule.foreground, show: (v) => v.toFixed(2), input: (v) => { rule.foreground = v; rule.background = Math.min(rule.background, v); changed("anchors"); } });
  slider("labels-sliders", "background", { label: "background below IoU", min: 0.05, max: 0.95, step: 0.01, value: rule.background, show: (v) => v.toFixed(2), input: (v) => { rule.background = v; rule.foreground = Math.max(rule.foreground, v); changed("anchors"); } });
  checkbox("labels-sliders", "low", "The best anchors of each object are objects, too, however low their IoU", rule.lowQuality, (v) => { rule.lowQuality = v; changed("anchors"); });
}

function drawATSS() {
  byId("labels-words").textContent = "Each object sets its own threshold: the mean plus the standard deviation of the IoUs of its nearest anchors. An anchor must reach it and be centred in the object. Nothing is ignored.";
  slider("labels-sliders", "candidates", { label: "nearest cells a level", min: 1, max: 25, step: 1, value: state.rule.candidates, input: (v) => { state.rule.candidates = v; changed("anchors"); } });
}

/* Why the chosen anchor has its label, in a sentence. */
function why(at) {
  const { assigned, rule } = state, label = assigned.label[at], iou = assigned.best[at], g = assigned.box[at], [row, column] = rowColumn();
  const opening = [bold(`Anchor ${many(at)}`), ` (row ${row}, column ${column}, j = ${state.place.j}) is `, bold(LABELS[label]), ". "];
  if (!state.boxes.length) return [...opening, "The image has no objects."];
  if (rule.kind === "atss") {
    if (label === OBJECT) return [...opening, `Its IoU with object ${g + 1} reaches that object’s own threshold, ${number(assigned.thresholds[g].iou, 3)}.`];
    return [...opening, assigned.candidate[at] ? `It is near an object, but its IoU of ${number(iou, 3)} is below the object’s threshold, or its centre lies outside.` : "It is among the nearest anchors of no object."];
  }
  const value = `Its best IoU, ${number(iou, 3)},`;
  if (assigned.rescued[at]) return [...opening, `${value} is below ${number(rule.foreground, 2)}, but no anchor fits one of the objects better.`];
  if (label === OBJECT) return [...opening, `${value} with object ${g + 1} is at least ${number(rule.foreground, 2)}.`];
  if (label === IGNORE) return [...opening, `${value} lies between ${number(rule.background, 2)} and ${number(rule.foreground, 2)}.`];
  return [...opening, `${value} is below ${number(rule.background, 2)}.`];
}

function countLabels(label, from = 0, to = label.length, every = 1, first = 0) {
  const counts = { [OBJECT]: 0, [IGNORE]: 0, [BACKGROUND]: 0 };
  for (let i = from + first; i < to; i += every) counts[label[i]]++;
  return counts;
}

function drawCounts() {
  const { level, j } = state.place, { label } = state.assigned, { rows, columns, k } = here();
  const first = numberOf(levels, { level, location: 0, j: 0 }), last = first + rows * columns * k;
  const lines = [[`this level, j = ${j}`, countLabels(label, first, last, k, j)], ["this level", countLabels(label, first, last)], ["the image", countLabels(label)]];
  fill("labels-counts", head("anchors of", "object", "ignored", "background"), element("tbody", {}, lines.map(([name, c]) => element("tr", {}, element("th", { scope: "row" }, name), [OBJECT, IGNORE, BACKGROUND].map((value) => element("td", {}, many(c[value])))))));
  const atss = state.rule.kind === "atss";
  fill("labels-objects", head("object", "width × height", "best IoU", ...(atss ? ["own threshold"] : []), "its anchors"), element("tbody", {}, state.boxes.map((box, g) => {
    const own = state.assigned.box.reduce((count, of, i) => count + (of === g && label[i] === OBJECT), 0);
    return element("tr", {}, element("th", { scope: "row" }, String(g + 1)), element("td", {}, sides(box)), element("td", {}, number(state.assigned.bestOfBox[g], 3)), atss ? element("td", {}, number(state.assigned.thresholds[g].iou, 3)) : null, element("td", {}, many(own)));
  })));
}

/* ------------------------------------------------------------------------------------------- 4. loss, gradient */

function drawLoss() {
  const { level, location, j } = state.place, at = anchorNumber(), [cx, cy] = centreOf(level, location), { stepX, stepY, rows, columns, offset } = here();
  const heat = element("svg:image", { href: heatPicture(level, j), x: (offset - 0.5) * stepX, y: (offset - 0.5) * stepY, width: columns * stepX, height: rows * stepY, preserveAspectRatio: "none", style: "image-rendering: pixelated" });
  const clipped = element("svg:g", { "clip-path": scenes.loss.clip }, heat);
  const chosen = (list, name, r) => list.map((a) => placeOf(levels, a)).filter((p) => p.level === level && p.j === j).map((p) => { const [x, y] = centreOf(level, p.location); return element("svg:circle", { cx: x, cy: y, r, class: name }); });
  const r = clamp(0.3 * stepX, 2.4, 6);
  scenes.loss.under.replaceChildren(clipped, ...state.boxes.map((box) => rect(box, "truth thin")), ...chosen(state.sample.negative, "is-background", r * 0.45), ...chosen(state.sample.positive, "is-object", r));
  scenes.loss.over.replaceChildren(...[element("svg:circle", { cx, cy, r: clamp(0.5 * stepX, 4, 11), class: "is-chosen" }), rect(boxAt(state.anchors, at), "halo thin"), rect(boxAt(state.anchors, at), "anchor thin")]);
  placeControls("loss-place", true);
  fill("loss-picks", "Follow ", picks.map(([label, text]) => button(text, () => follow(label), { disabled: candidatesFor(label).length === 0 })));
  drawChain(at);
  drawGradient(at);
  drawTraining();
}

const picks = [[OBJECT, "an object"], [BACKGROUND, "a background"], [IGNORE, "an ignored one"]];
const candidatesFor = (label) => (label === OBJECT ? state.sample.positive : label === BACKGROUND ? state.sample.negative : [...state.assigned.label.keys()].filter((a) => state.assigned.label[a] === IGNORE));
/* The next anchor with that label, after the chosen one. */
function follow(label) {
  const from = candidatesFor(label), next = from.find((a) => a > anchorNumber()) ?? from[0];
  state.place = placeOf(levels, next);
  go({});
}

/* Everything about one anchor's part of the loss. */
function exampleOf(at) {
  const place = placeOf(levels, at), cell = answerAt(state.head, levels[place.level], place.location), z = cell.logits[place.j];
  const sampled = state.sample.positive.includes(at) || state.sample.negative.includes(at), label = state.assigned.label[at], y = label === OBJECT ? 1 : 0;
  const wanted = label === OBJECT ? encode(coder, boxAt(state.anchors, at), state.boxes[state.assigned.box[at]]) : null;
  const deltas = Array.from(cell.deltas.subarray(4 * place.j, 4 * place.j + 4)), size = state.loss.size;
  const errors = wanted?.map((t, i) => deltas[i] - t);
  return { place, cell, z, sampled, label, y, wanted, deltas, errors, loss: crossEntropy(z, y), slope: sampled ? (sigmoid(z) - y) / size : 0,
    box: errors?.map((e) => smoothL1(e, content.beta)), slopes: errors?.map((e) => (sampled ? smoothL1Slope(e, content.beta) / size : 0)), size };
}

function drawChain(at) {
  const one = exampleOf(at), two = content.head.perAnchor === 2, { j } = one.place, p = sigmoid(one.z);
  fill("loss-in", bold(`Anchor ${many(at)} is ${LABELS[one.label]}`), one.label === IGNORE ? ". It takes no part in the loss. Its gradient is zero." : one.sampled ? `, and one of the ${many(one.size)} in the sample. It counts.` : `, but not one of the ${many(one.size)} that were drawn. This time its gradient is zero.`);
  const lines = [["The cell’s outputs for j = ", `${j}`, two ? `: background ${number(one.cell.scores[2 * j], 2)}, object ${number(one.cell.scores[2 * j + 1], 2)}` : `: ${number(one.z, 2)}`],
    [two ? "Logit, their difference: z = " : "That is the logit: z = ", number(one.z, 3), ""], ["P(object) = 1 / (1 + e⁻ᶻ) = ", number(p, 4), ""]];
  if (one.label === IGNORE) lines.push(["Label: none. Loss: ", "none", ""]);
  else {
    lines.push(["Label: ", one.y ? "1, object" : "0, background", ""], [one.y ? "Loss = −log P = " : "Loss = −log(1 − P) = ", small(one.loss), `, divided by the ${many(one.size)} of the sample`],
      one.sampled ? ["Slope of the loss along z = (P − label) / sample = ", small(one.slope), ""] : ["Slope of the loss along z: ", "0", ", as it was not drawn"]);
  }
  fill("loss-chain", lines.map(([before, value, after]) => element("li", {}, before, bold(value), after)));
  if (!one.wanted) {
    fill("loss-box", element("tbody", {}, element("tr", {}, element("td", { class: "text" }, "Only objects have a target box. This anchor has no box loss."))));
    return;
  }
  fill("loss-box", head("box loss", "t_x", "t_y", "t_w", "t_h"), element("tbody", {}, [["predicted", one.deltas, number], ["target", one.wanted, number], ["error", one.errors, number], ["smooth L1", one.box, small], ["slope", one.slopes, small]].map(([name, values, show]) =>
    element("tr", {}, element("th", { scope: "row" }, name), values.map((value) => element("td", {}, show(value)))))));
}

/* The gradient's way into the row of the score "object" of this anchor: its own part, and the whole sample's. */
function drawGradient(at) {
  const one = exampleOf(at), { j, level } = one.place, index = content.head.perAnchor * (j + 1) - 1, width = state.head.width, { k } = levels[level];
  const own = Array.from(one.cell.hidden, (h) => h * one.slope), all = Array.from(state.loss.gradient.outputs[k].scores.weight.subarray(index * width, (index + 1) * width));
  strip(byId("loss-hidden"), Array.from(one.cell.hidden));
  strip(byId("loss-row"), own);
  strip(byId("loss-all"), all);
  set(byId("loss-hidden"), { "aria-label": `the cell's ${width} numbers` });
  set(byId("loss-row"), { "aria-label": `this anchor's part of the gradient, slope ${small(one.slope)}` });
  set(byId("loss-all"), { "aria-label": "gradient of the row from the whole sample" });
  byId("loss-row-name").textContent = `× slope ${small(one.slope)} = this anchor’s part of the gradient of row “${outputName("scores", index).replace(/ +/g, " ")}”`;
}

/* --------------------------------------------------------------------------------------------- 4. ten SGD steps */

/* Ten steps of SGD on this image; a new sample for each. */
function tenSteps() {
  if (!state.curve.length) state.curve = [lossPoint()];
  for (let i = 0; i < 10; i++) {
    sgdStep(state.head, state.loss.gradient, state.rate);
    state.weights = "retrained";
    state.steps++;
    state.sampler.seed++;
    state.sample = sampleOf(state.assigned.label, state.sampler, state.sampler.seed);
    state.loss = lossOf(state.head, levels, state.anchors, state.boxes, state.assigned, state.sample, coder, content.beta);
    state.curve.push(lossPoint());
  }
  changed("weights");
}
const lossPoint = () => ({ total: state.loss.total, objectness: state.loss.objectness, box: state.loss.box });

function useWeights(kind) {
  state.head = kind === "random" ? randomHead(trainedHead, 1) : copyOf(trainedHead);
  Object.assign(state, { weights: kind, curve: [], steps: 0 });
  changed("weights");
}

function drawTraining() {
  const holder = byId("loss-train");
  if (!holder.children.length) holder.append(button("Ten SGD steps", tenSteps, { class: "primary", id: "ten-steps" }), button("Random weights", () => useWeights("random"), { id: "random-weights" }), button("The run’s weights", () => useWeights("trained"), { id: "trained-weights" }));
  slider("loss-sliders", "rate", { label: "learning rate", min: -2, max: 0.5, step: 0.05, value: Math.log10(state.rate), show: () => number(state.rate, 2), input: (v) => { state.rate = 10 ** v; drawSoon(); } });
  const points = state.curve.length ? state.curve : [lossPoint()];
  chart("loss-chart", [["line", "total", points.map((p) => p.total)], ["line second", "objectness", points.map((p) => p.objectness)], ["line third", "box", points.map((p) => p.box)]], { across: "SGD steps on this image", room: 11 });
  const last = points[points.length - 1], words = { trained: "the run’s own", random: "random ones", retrained: `after ${plural(state.steps, "step")}` };
  fill("loss-words", "Weights: ", words[state.weights], `. Loss ${number(last.total, 3)} = objectness ${number(last.objectness, 3)} + box ${number(last.box, 3)}.`, points.length > 1 ? ` It was ${number(points[0].total, 3)}.` : " Press the button.");
}

/* Lines over from, from + 1, ...: [class, name, values]; `marker` is an index of the first. */
function chart(holder, lines, { across, high = null, from = 0, marker = null, digits = null, room = 2, stairs = false }) {
  const W = clamp(byId(holder).clientWidth || 520, 280, 620), H = 190, left = 40, right = 82, top = 10, bottom = 34, count = Math.max(room, ...lines.map(([, , v]) => v.length));
  const most = high ?? Math.max(1e-6, ...lines.flatMap(([, , v]) => v)) * 1.05;
  const places = digits ?? (most < 0.2 ? 3 : 2);
  const x = (i) => left + (i / (count - 1)) * (W - left - right), y = (v) => H - bottom - (v / most) * (H - top - bottom);
  const spots = new Map(); // where the lines' names stand: at their ends, at least a line's height apart
  for (const [, name, v] of [...lines].sort((a, b) => b[2].at(-1) - a[2].at(-1))) spots.set(name, Math.max(y(v.at(-1)) + 4, Math.max(...spots.values()) + 14));
  const drawn = element("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": lines.map(([, name, v]) => `${name} ${number(v[v.length - 1], 3)}`).join(", ") },
    [0, 0.5, 1].map((t) => { const v = t * most; return [element("svg:path", { class: "axis", d: `M${left} ${y(v)}H${W - right}` }), element("svg:text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, number(v, places))]; }).flat(),
    element("svg:text", { x: left, y: H - 14 }, String(from)), element("svg:text", { x: W - right, y: H - 14, "text-anchor": "end" }, many(from + count - 1)), element("svg:text", { x: (left + W - right) / 2, y: H - 14, "text-anchor": "middle" }, across),
    lines.map(([kind, name, v]) => [v.length > 1 ? element("svg:polyline", { class: kind, points: v.flatMap((value, i) => [...(stairs && i ? [`${x(i)},${y(v[i - 1])}`] : []), `${x(i)},${y(value)}`]).join(" ") }) : element("svg:path", { class: kind, d: `M${x(0) - 4} ${y(v[0])}h8` }), element("svg:text", { x: x(v.length - 1) + 8, y: spots.get(name) }, name)]).flat(),
    marker === null ? null : element("svg:circle", { class: "marker", r: 6, cx: x(marker), cy: y(lines[0][2][marker]) }));
  byId(holder).replaceChildren(drawn);
}

/* ------------------------------------------------------------------------------------------------ 5. proposals */

/* Candidates, proposals and what they find, of the state's settings. */
function select(anchors = state.anchors, answer = state.answer) {
  const { perLevel, tiered, tiers, acrossLevels, iou, most } = state.selector;
  const candidates = candidatesOf(levels, anchors, answer, coder, perLevel, image);
  const kept = tiered ? tieredOf(candidates, tiers, most, acrossLevels) : nmsOf(candidates, iou, most);
  return { candidates, kept, rank: matchesOf(kept, state.boxes, 0.5), ranks: Array.from({ length: 10 }, (_, t) => matchesOf(kept, state.boxes, 0.5 + 0.05 * t)) };
}

const STAGES = [["anchors", "1 best anchors"], ["decoded", "2 decoded"], ["thinned", "3 thinned"]];
const CURVE_END = 100;

function drawProposals() {
  state.proposals ??= select();
  const { candidates, kept, rank, ranks } = state.proposals, { selector, best } = state;
  segments("proposals-stage", STAGES, state.stage, (stage) => { state.stage = stage; drawSoon(); }, "stage");
  const boxes = state.stage === "thinned" ? kept.slice(0, best) : candidates.slice(0, best);
  const found = state.stage === "thinned" ? rank.map((at) => at >= 0 && at < best) : matchesOf(shownBoxes(boxes), state.boxes, 0.5).map((at) => at >= 0);
  const veil = element("svg:rect", { class: "veil", x: 0, y: 0, width: image.width, height: image.height });
  scenes.proposals.under.replaceChildren(veil, ...shownBoxes(boxes).flatMap(({ box }) => (state.boxes.some((wanted) => iouOf(box, wanted) >= 0.5) ? [rect(box, "halo thin"), rect(box, state.stage === "anchors" ? "anchor thin" : "box thin")] : [rect(box, "plain")])));
  scenes.proposals.over.replaceChildren(...state.boxes.flatMap((box, g) => outlined(box, found[g] ? "truth" : "missed")));
  const stage = { anchors: `The ${boxes.length} best-scored anchors, not yet decoded,`, decoded: `The ${boxes.length} best candidates, decoded but not thinned out,`, thinned: `The ${boxes.length} best proposals` }[state.stage];
  fill("proposals-result", `recall@${best} = ${number(recallOf(found.map((yes) => (yes ? 0 : -1)), 1), 2)}`, element("span", { class: "plainly" }, `${stage} find ${found.filter(Boolean).length} of ${state.boxes.length} objects at IoU 0.5. ${many(candidates.length)} candidates, ${many(kept.length)} kept.`));
  slider("proposals-sliders", "best", { label: "N proposals", min: 1, max: CURVE_END, step: 1, value: best, input: (v) => { state.best = v; drawSoon(); } });
  slider("proposals-sliders", "top", { label: "best anchors a level", min: 0, max: 3, step: 0.01, value: Math.log10(selector.perLevel), show: () => many(selector.perLevel), input: (v) => { selector.perLevel = Math.round(10 ** v); changed("selection"); } });
  segments("proposals-rule", [[false, "NMS"], [true, "tiered NMS"]], selector.tiered, (tiered) => { selector.tiered = tiered; changed("selection"); }, "how to thin out");
  drawThinning();
  const curve = Array.from({ length: CURVE_END }, (_, i) => recallOf(rank, i + 1)), mean = curve.map((_, i) => ranks.reduce((sum, one) => sum + recallOf(one, i + 1), 0) / ranks.length);
  chart("proposals-chart", [["line", "recall@N", curve], ["line second", "AR@N", mean]], { across: "N proposals", from: 1, high: 1, marker: best - 1, digits: 1, stairs: true });
}

/* In the first stage a candidate is still its anchor. */
const shownBoxes = (list) => (state.stage === "anchors" ? list.map((one) => ({ ...one, box: boxAt(state.anchors, one.anchor) })) : list);

function drawThinning() {
  const { selector } = state, holder = "proposals-thinning";
  emptied(holder, String(selector.tiered));
  byId(holder).classList.toggle("tiers", selector.tiered);
  if (!selector.tiered) {
    byId("proposals-words").textContent = "From the best score down: a box goes if its IoU with a kept one of its level is above this.";
    slider(holder, "iou", { label: "NMS IoU", min: 0.1, max: 1, step: 0.01, value: selector.iou, show: (v) => v.toFixed(2), input: (v) => { selector.iou = v; changed("selection"); } });
    return;
  }
  byId("proposals-words").textContent = "The threshold follows the budget: the first few proposals must lie apart, later ones may be second tries. Passed-over boxes get another chance in the next tier.";
  selector.tiers.forEach(([count, iou], at) => {
    const low = at ? selector.tiers[at - 1][0] + 1 : 1, high = at + 1 < selector.tiers.length ? selector.tiers[at + 1][0] - 1 : 1000;
    slider(holder, `count-${at}`, { label: `${at + 1}: until`, min: low, max: high, step: 1, value: count, input: (v) => { selector.tiers[at][0] = v; changed("selection"); } });
    slider(holder, `iou-${at}`, { label: "IoU ≤", min: 0.1, max: 1, step: 0.01, value: iou, show: (v) => v.toFixed(2), input: (v) => { selector.tiers[at][1] = v; changed("selection"); } });
    for (const kind of ["count", "iou"]) sliders.get(`${holder}-${kind}-${at}`).range.setAttribute("aria-label", `tier ${at + 1}: ${kind === "count" ? "until so many proposals" : "largest IoU"}`);
  });
}

/* ------------------------------------------------------------------------------------------------ 6. anchor sets */

const TRAINING_STEPS = 150;

/* Sets with the same k on each level, so that the head fits all of them. */
function anchorSets() {
  const own = levels.map((level) => level.shapes), scaled = (by) => own.map((level) => level.map(([w, h]) => [w * by, h * by]));
  const ratio = (r) => own.map((level) => level.map(([w, h], j) => { const size = Math.sqrt(w * h) * 2 ** ((j / level.length) - 1 / 3); return [size / Math.sqrt(r), size * Math.sqrt(r)]; }));
  const sets = [["The run’s own", own], ["Half as large", scaled(0.5)], ["Twice as large", scaled(2)], ["Four times as large", scaled(4)], ["Wide ones only, ratio 1/5", ratio(0.2)]];
  return same(state.shapes.flat(2), own.flat(2)) ? sets : [...sets, ["Yours, from step 2", state.shapes]];
}

function coverageOf(shapes) {
  const anchors = anchorsOf(levels, shapes);
  const best = state.boxes.map((box) => { let most = 0; for (let a = 0; a < anchors.length / 4; a++) most = Math.max(most, iouOf(boxAt(anchors, a), box)); return most; });
  const mean = best.length ? best.reduce((sum, v) => sum + v, 0) / best.length : 0;
  return { mean, half: best.filter((v) => v >= 0.5).length, objects: countLabels(assign(anchors).label)[OBJECT] };
}

const meter = (share, name = "") => element("div", { class: `meter ${name}` }, element("i", {}, element("b", { style: `width: ${100 * share}%` })), element("span", {}, number(share, 2)));

function drawSets() {
  const sets = anchorSets(), largest = Math.max(...sets[0][1].flat(2)) * 1.4;
  fill("sets-table", head("anchors", "", "coverage: mean best IoU", "objects with IoU ≥ 0.5", "anchors labelled object", `after training: AR@${state.best}`, ""), element("tbody", {}, sets.map(([name, shapes], at) => {
    const { mean, half, objects } = coverageOf(shapes), result = state.trained[name];
    return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, setGlyph(shapes, largest)), element("td", { class: "bar", "data-name": "coverage" }, meter(mean)), element("td", { "data-name": "objects with IoU ≥ 0.5" }, `${half} of ${state.boxes.length}`), element("td", { "data-name": "anchors labelled object" }, many(objects)),
      element("td", { class: "bar", "data-name": `AR@${state.best} after training` }, result === undefined ? "–" : meter(averageRecall(result), "trained")), element("td", {}, button("Use", () => { state.shapes = clone(shapes); changed("anchors"); }, { "aria-label": `use these anchors in all steps: ${name}` })));
  })));
  byId("sets-hint").textContent = `A fresh head gets ${TRAINING_STEPS} SGD steps on this image, from the same random weights and with the assigner of step 3. The backbone’s maps stay as they are. One image is a toy: it shows the mechanism, not which anchors are best for your data. “Use” puts a set into all steps.`;
}

const averageRecall = (ranks) => ranks.reduce((sum, rank) => sum + recallOf(rank, state.best), 0) / ranks.length;

function setGlyph(shapes, largest, size = 56) {
  const scale = size / largest, all = shapes.flat();
  return element("svg:svg", { width: size, height: size, viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true" }, all.map(([w, h]) => element("svg:rect", { x: size / 2 - (w * scale) / 2, y: size / 2 - (h * scale) / 2, width: w * scale, height: h * scale, fill: "none", stroke: "currentColor", "stroke-width": 1, "stroke-opacity": 0.75 })));
}

/* Train a fresh head with these anchors: ranks of the found objects at the ten IoU thresholds. */
async function trainFresh(shapes, rest) {
  const fresh = randomHead(trainedHead, 1), anchors = anchorsOf(levels, shapes), assigned = assign(anchors);
  let velocity = null;
  for (let i = 0; i < TRAINING_STEPS; i++) {
    const sample = sampleOf(assigned.label, state.sampler, i);
    const { gradient } = lossOf(fresh, levels, anchors, state.boxes, assigned, sample, coder, content.beta);
    velocity = sgdStep(fresh, gradient, 0.05, 0.9, velocity);
    if (i % 5 === 4) await rest(i);
  }
  return select(anchors, forward(fresh, levels)).ranks;
}

async function trainSets() {
  byId("sets-train").disabled = true;
  const sets = anchorSets(), results = state.trained;
  for (const [at, [name, shapes]] of sets.entries()) {
    results[name] = await trainFresh(shapes, (i) => {
      byId("sets-progress").textContent = `set ${at + 1} of ${sets.length}, step ${i + 1} of ${TRAINING_STEPS}`;
      return new Promise((resume) => setTimeout(resume));
    });
    if (state.trained !== results) break; // anchors or objects were changed meanwhile
    drawSoon();
  }
  byId("sets-train").disabled = false;
  byId("sets-progress").textContent = state.trained === results ? "done" : "stopped: anchors or objects have changed";
}

/* ------------------------------------------------------------------------------------------------- 7. questions */

function drawOrder() {
  const { level, location, j } = state.place, [row, column] = rowColumn(), { columns, k } = here(), at = anchorNumber(), first = numberOf(levels, { level, location: 0, j: 0 }), per = content.head.perAnchor;
  slider("q-order-sliders", "anchor", { label: "anchor number", min: 0, max: COUNT - 1, step: 1, value: at, show: many, input: (v) => { state.place = placeOf(levels, v); go({}); } });
  slider("q-order-sliders", "j", { label: "j within the cell", min: 0, max: k - 1, step: 1, value: j, input: (v) => go({ j: v }) });
  const cells = (count, on) => Array.from({ length: count }, (_, c) => element("i", { class: on(c) ? "on" : null }, count <= 16 ? String(c) : ""));
  fill("q-order-channels", element("div", {}, element("span", {}, "scores"), cells(per * k, (c) => Math.floor(c / per) === j)), element("div", {}, element("span", {}, "deltas"), cells(4 * k, (c) => c >> 2 === j)));
  const scores = per === 2 ? `scores ${2 * j} and ${2 * j + 1}` : `score ${j}`;
  fill("q-order-answer", bold(`Deltas ${4 * j} to ${4 * j + 3} and ${scores}`), `, read at row ${row}, column ${column} of stride ${here().stride}, belong to anchor ${many(at)} = ${first ? `${many(first)} + ` : ""}(${row} × ${columns} + ${column}) × ${k} + ${j}. Flatten the map to (rows, columns, k, 4): never to (4, k) first.`);
}

function drawSample() {
  const { sampler, sample, assigned } = state, counts = countLabels(assigned.label), on = anchorNumber();
  slider("q-sample-sliders", "num", { label: "budget of the image", min: 8, max: 512, step: 8, value: sampler.num ?? 512, show: (v) => (sampler.num === null ? "all" : String(v)), input: (v) => { sampler.num = v; changed("sample"); } });
  const holder = byId("q-sample-controls");
  if (!holder.children.length) holder.append(button("Draw again", () => { sampler.seed++; changed("sample"); }, { id: "draw-again" }));
  const bar = (name, drawn, of) => element("div", {}, element("span", {}, name), element("i", {}, element("b", { style: `width: ${of ? (100 * drawn) / of : 0}%` })), element("span", {}, `${many(drawn)} of ${many(of)}`));
  fill("q-sample-bars", bar("object", sample.positive.length, counts[OBJECT]), bar("background", sample.negative.length, counts[BACKGROUND]), bar("ignored", 0, counts[IGNORE]));
  const drawn = sample.positive.includes(on) || sample.negative.includes(on), rule = sampler.num === null ? "This run takes every labelled anchor." : `At most ${Math.round(100 * sampler.fraction)} % are objects; background fills up.`;
  fill("q-sample-answer", bold(`Over ${many(state.loss.size)} of ${many(COUNT)} anchors`), `. ${rule} Objects count in both losses, background in one. Loss of this draw: ${number(state.loss.total, 4)}. Anchor ${many(on)} is ${drawn ? "in it" : "not in it"}.`);
}

function drawPairs() {
  const { generatorK: a, headK: h } = state, cells = 4, anchors = cells * a, scores = cells * h, W = 460, most = Math.max(anchors, scores), gap = (W - 20) / most;
  slider("q-k-sliders", "generator", { label: "k of the anchors", min: 1, max: 3, step: 1, value: a, input: (v) => { state.generatorK = v; drawSoon(); } });
  slider("q-k-sliders", "head", { label: "k of the head", min: 1, max: 3, step: 1, value: h, input: (v) => { state.headK = v; drawSoon(); } });
  const row = (count, k, y) => Array.from({ length: count }, (_, i) => [element("svg:rect", { x: 10 + i * gap + 1, y, width: gap - 2, height: 24, rx: 3 }), gap > 20 ? element("svg:text", { x: 10 + (i + 0.5) * gap, y: y + 16, "text-anchor": "middle" }, String(Math.floor(i / k))) : null]).flat();
  const lines = Array.from({ length: Math.min(anchors, scores) }, (_, i) => element("svg:path", { class: Math.floor(i / a) === Math.floor(i / h) ? "right" : "wrong", d: `M${10 + (i + 0.5) * gap} 46V84` }));
  fill("q-k-pairs", element("svg:svg", { viewBox: `0 0 ${W} 132`, role: "img", "aria-label": "anchors above, scores below, each with the number of its cell" }, element("svg:text", { x: 10, y: 14, class: "small" }, `anchors, each with its cell: ${cells} × ${a} = ${anchors}`), row(anchors, a, 22), row(scores, h, 84), element("svg:text", { x: 10, y: 126, class: "small" }, `scores, each with its cell: ${cells} × ${h} = ${scores}`), lines));
  const wrong = lines.filter((line) => line.classList.contains("wrong")).length;
  fill("q-k-answer", a === h ? [bold("They agree. "), "Every score meets an anchor of its own cell."] : a < h
    ? [bold("It trains without a word, and wrongly. "), `${wrong} of ${anchors} anchors meet a score of another cell: anchor i gets score i, which belongs to cell i // ${h}. torchvision lets this pass.`]
    : [bold("It fails. "), `There are ${anchors} anchors and ${scores} scores, and torchvision stops with an error about shapes.`], " AnchorLab derives k once, from the anchors, and builds the head from it.");
}

function drawLarge() {
  const { level, location } = state.place, ratioed = state.large * Math.max(image.width, image.height), [x, y] = centreOf(level, location);
  const anchor = [x - ratioed / 2, y - ratioed / 2, x + ratioed / 2, y + ratioed / 2], cut = [Math.max(0, anchor[0]), Math.max(0, anchor[1]), Math.min(image.width, anchor[2]), Math.min(image.height, anchor[3])];
  const outside = 1 - (Math.max(0, cut[2] - cut[0]) * Math.max(0, cut[3] - cut[1])) / ratioed ** 2;
  const whole = [0, 0, image.width, image.height], iou = iouOf(anchor.map(f32), whole), t = encode(coder, anchor, whole);
  scenes.large.under.replaceChildren(...outlined(whole, "truth"));
  scenes.large.over.replaceChildren(...markedCell().slice(1), rect(anchor, "anchor beyond"));
  slider("q-large-sliders", "size", { label: "size of the anchor", min: 0.2, max: 1.6, step: 0.01, value: state.large, show: () => `${number(ratioed, 0)} px`, input: (v) => { state.large = v; drawSoon(); } });
  const crossing = crossingAnchors();
  fill("q-large-answer", bold(`${number(100 * outside, 0)} % of it lies outside. `), `For an object that fills the image its IoU is ${number(iou, 2)}, and the target is t = (${t.map((v) => number(v, 2)).join(", ")}): small numbers, like any other. Proposals are clipped; anchors are not. The paper ignores anchors that cross the border (assigner.border=0). Here that would be ${many(crossing)} of ${many(COUNT)}.`);
}

function crossingAnchors() {
  let count = 0;
  for (let a = 0; a < COUNT; a++) { const [x1, y1, x2, y2] = boxAt(state.anchors, a); count += x1 < 0 || y1 < 0 || x2 > image.width || y2 > image.height; }
  return count;
}

function drawStride() {
  const { stride, wide } = state, columns = Math.ceil(image.width / stride), rows = Math.ceil(image.height / stride), points = [];
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) points.push(element("svg:circle", { cx: (c + 0.5) * stride, cy: (r + 0.5) * stride, r: clamp(stride / 9, 1.1, 3.2), class: "is-object" }));
  const size = [...here().shapes[Math.min(state.place.j, here().k - 1)]], middleCell = [(Math.floor(columns / 2) + 0.5) * stride, (Math.floor(rows / 2) + 0.5) * stride];
  const at = (dx) => [middleCell[0] + dx - size[0] / 2, middleCell[1] - size[1] / 2, middleCell[0] + dx + size[0] / 2, middleCell[1] + size[1] / 2].map(f32);
  scenes.stride.under.replaceChildren(element("svg:rect", { class: "veil", x: 0, y: 0, width: image.width, height: image.height }), ...points);
  scenes.stride.over.replaceChildren(...outlined(at(0), "anchor"), ...outlined(at(stride), "box"));
  slider("q-stride-sliders", "stride", { label: "stride", min: 2, max: 6, step: 1, value: Math.log2(stride), show: () => `${stride} px`, input: (v) => { state.stride = 2 ** v; drawSoon(); } });
  slider("q-stride-sliders", "wide", { label: "width of an image", min: 512, max: 1024, step: 8, value: wide, show: (v) => `${v} px`, input: (v) => { state.wide = v; drawSoon(); } });
  const cells = Math.ceil(wide / 64), inferred = Math.floor(wide / cells);
  fill("q-stride-answer", bold(`${gridOf({ rows, columns })} = ${many(rows * columns)} cells. `), `Neighbours of ${number(size[0], 0)} × ${number(size[1], 0)} pixels overlap by IoU ${number(iouOf(at(0), at(stride)), 2)}: the finer the stride, the nearer some anchor is to any object. `,
    bold(`Declare it: `), `at stride 64 an image of ${wide} pixels has ${cells} cells, and ${wide} // ${cells} = ${inferred}. `, inferred === 64 ? "Here that happens to be right." : `Anchors placed by that division are ${many((64 - inferred) * (cells - 1))} pixels off in the last column.`);
}

/* ------------------------------------------------------------------------------------------------------ drawing */

const scenes = {
  cell: scene("cell-scene", { picksCells: true, label: "the image with the map's cells; arrow keys move the chosen cell" }),
  change: scene("change-scene", { margin: CHANGE_MARGIN, picksCells: true, label: "the anchor of the chosen cell and the box it is decoded to; arrow keys move the cell" }),
  labels: scene("labels-scene", { picksCells: true, movesObjects: true, label: "labels of the anchors at every cell; arrow keys move the chosen cell" }),
  loss: scene("loss-scene", { picksCells: true, label: "P(object) at every cell and the sampled anchors; arrow keys move the chosen cell" }),
  proposals: scene("proposals-scene", { label: "proposals and objects" }),
  large: scene("q-large-scene", { margin: 70, label: "an anchor larger than the image" }),
  stride: scene("q-stride-scene", { label: "the centres of the anchors at a stride, and two neighbours" }),
};
byId("change-sliders").after(element("div", { class: "controls", id: "change-moves" }));
const grip = anchorGrip(scenes.change);

const STEPS = { cell: drawCell, change: drawChange, labels: drawLabels, loss: drawLoss, proposals: drawProposals, sets: drawSets, "q-order": drawOrder, "q-sample": drawSample, "q-k": drawPairs, "q-large": drawLarge, "q-stride": drawStride };
const stale = new Set(), seen = new Set();
let waiting = false;

function drawSoon() {
  for (const id of Object.keys(STEPS)) stale.add(id);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(seen); });
}

/* Draw the stale ones of these steps. */
function draw(ids) {
  for (const id of ids) if (stale.delete(id)) STEPS[id]();
}
const drawAll = () => draw(Object.keys(STEPS));

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) (isIntersecting ? seen.add(target.id) : seen.delete(target.id));
  draw(seen);
}, { rootMargin: "300px" });

function markStep() {
  const ids = ["cell", "change", "labels", "loss", "proposals", "sets", "questions"];
  const current = ids.filter((id) => byId(id).getBoundingClientRect().top < window.innerHeight * 0.4).pop();
  for (const link of document.querySelectorAll(".steps a")) set(link, { "aria-current": link.hash === `#${current}` ? "step" : null });
}

/* ------------------------------------------------------------------------------------------------------- themes */

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
  inks = null;
  drawSoon();
}
/* A file's page may be refused a store. */
const store = (() => { try { return window.localStorage; } catch { return null; } })();
const preferred = window.matchMedia("(prefers-color-scheme: dark)");
const wantedTheme = () => store?.getItem("anchorlab-theme") ?? (preferred.matches ? "dark" : "light");

byId("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  store?.setItem("anchorlab-theme", theme);
  setTheme(theme);
});
preferred.addEventListener("change", () => setTheme(wantedTheme()));
byId("restart").addEventListener("click", start);
byId("sets-train").addEventListener("click", trainSets);
window.addEventListener("scroll", markStep, { passive: true });

byId("footer").replaceChildren(element("p", {}, `AnchorLab ${content.version}. Run ${content.run}, image ${content.image.name} (${image.width} × ${image.height} pixels), ${levels.length === 1 ? "one level" : `${levels.length} levels`}, ${many(COUNT)} anchors. The backbone’s maps were computed beforehand; everything after them is computed on this page and tested against PyTorch.`),
  ...content.notes.map((note) => element("p", {}, note)));
setTheme(wantedTheme());
start();
for (const id of Object.keys(STEPS)) watcher.observe(byId(id));
markStep();
