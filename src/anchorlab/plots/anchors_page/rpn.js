/* The numbers of the page: an RPN's head, anchors, assigners, losses, gradients, proposals and recall in plain JavaScript.
 *
 * It follows src/anchorlab/rpn line by line and is tested against it (tests/plots/test_anchors_page.py). Nothing is drawn
 * here. Sums are float64. What decides a comparison (IoU, corners of anchors) is rounded to float32 after every
 * operation, as PyTorch has it: a label at the threshold is then the same one.
 *
 * Level = {stride, rows, columns, k, shapes, ...} | location = row * columns + column | anchor = first + location * k + j */
"use strict";

const OBJECT = 1, BACKGROUND = 0, IGNORE = -1;
const f32 = Math.fround;
const sigmoid = (z) => 1 / (1 + Math.exp(-z));

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/* A seeded generator of numbers in [0, 1): mulberry32. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/* -------------------------------------------------------------------------------------------------------- head */

/* A layer's weights as rows: weight[o * inputs + i]. A 3x3 convolution has the inputs tap by tap: (3, 3, channels). */
const layer = (weight, bias) => ({ weight: floats(weight), bias: floats(bias) });

function copyOf(head) {
  const copy = (one) => one && { weight: one.weight.slice(), bias: one.bias.slice() };
  const outputs = Object.fromEntries(Object.entries(head.outputs).map(([k, pair]) => [k, { scores: copy(pair.scores), deltas: copy(pair.deltas) }]));
  return { ...head, conv: copy(head.conv), outputs };
}

/* The layers that training changes, in one list. */
const layersOf = (head) => [head.conv, ...Object.values(head.outputs).flatMap((pair) => [pair.scores, pair.deltas])].filter(Boolean);

/* Weights as before any training: normal(0, 0.01), biases 0. */
function randomHead(head, seed) {
  const fresh = copyOf(head), next = generator(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  for (const one of layersOf(fresh)) {
    for (let i = 0; i < one.weight.length; i++) one.weight[i] = 0.01 * normal();
    one.bias.fill(0);
  }
  return fresh;
}

/* The nine cells around a location, each with its channels, zeros beyond the map. */
function patch(level, channels, location, into) {
  const row = Math.floor(location / level.columns), column = location % level.columns;
  let at = 0;
  for (let y = row - 1; y <= row + 1; y++) {
    for (let x = column - 1; x <= column + 1; x++, at += channels) {
      if (y < 0 || x < 0 || y >= level.rows || x >= level.columns) into.fill(0, at, at + channels);
      else into.set(level.map.subarray((y * level.columns + x) * channels, (y * level.columns + x + 1) * channels), at);
    }
  }
}

/* weight x input + bias: what a 1x1 convolution does at one location, and nn.Linear with a row of a table. */
function product({ weight, bias }, input, into, start = 0) {
  const inputs = input.length;
  for (let o = 0; o < bias.length; o++) {
    let sum = 0;
    for (let i = 0, w = o * inputs; i < inputs; i++, w++) sum += weight[w] * input[i];
    into[start + o] = sum + bias[o];
  }
}

/* What the 3x3 convolution and ReLU give at a location: `width` numbers. Without its weights the map holds them already. */
function hiddenAt(head, level, location) {
  if (!head.conv) return Float64Array.from(level.map.subarray(location * head.width, (location + 1) * head.width));
  const inputs = new Float64Array(9 * head.channels), hidden = new Float64Array(head.width);
  patch(level, head.channels, location, inputs);
  product(head.conv, inputs, hidden);
  for (let i = 0; i < hidden.length; i++) if (hidden[i] < 0) hidden[i] = 0;
  return hidden;
}

/* The whole head at one location: scores (k or 2k), logits (k), deltas (4k), hidden (width). */
function answerAt(head, level, location) {
  const hidden = hiddenAt(head, level, location), pair = head.outputs[level.k];
  const scores = new Float64Array(head.perAnchor * level.k), deltas = new Float64Array(4 * level.k);
  product(pair.scores, hidden, scores);
  product(pair.deltas, hidden, deltas);
  return { hidden, scores, deltas, logits: logitsOf(head, scores) };
}

/* One logit an anchor. Softmax over (background, object) is the sigmoid of their difference. */
const logitsOf = (head, scores) => (head.perAnchor === 1 ? scores.slice() : Float64Array.from({ length: scores.length / 2 }, (_, j) => scores[2 * j + 1] - scores[2 * j]));

/* The head over all levels: logits and deltas in the order of the anchors, scores and hidden numbers by level. */
function forward(head, levels) {
  const count = levels.reduce((sum, level) => sum + level.rows * level.columns * level.k, 0);
  const answer = { logits: new Float64Array(count), deltas: new Float64Array(4 * count), levels: [] };
  let first = 0;
  for (const level of levels) {
    const locations = level.rows * level.columns;
    const hidden = new Float64Array(locations * head.width), scores = new Float64Array(locations * level.k * head.perAnchor);
    for (let location = 0; location < locations; location++) {
      const one = answerAt(head, level, location);
      hidden.set(one.hidden, location * head.width);
      scores.set(one.scores, location * one.scores.length);
      answer.logits.set(one.logits, first + location * level.k);
      answer.deltas.set(one.deltas, 4 * (first + location * level.k));
    }
    answer.levels.push({ hidden, scores });
    first += locations * level.k;
  }
  return answer;
}

/* ----------------------------------------------------------------------------------------------------- anchors */

/* Of shapes ([width, height] by level): all anchors as [x1, y1, x2, y2, x1, ...], by level, row, column, j. */
function anchorsOf(levels, shapes) {
  const boxes = [];
  levels.forEach((level, at) => {
    const half = shapes[at].map((shape) => shape.map((side) => f32(f32(side) / 2)));
    for (let row = 0; row < level.rows; row++) {
      const y = f32(f32(row + level.offset) * level.stepY);
      for (let column = 0; column < level.columns; column++) {
        const x = f32(f32(column + level.offset) * level.stepX);
        for (const [w, h] of half) boxes.push(f32(x - w), f32(y - h), f32(x + w), f32(y + h));
      }
    }
  });
  return Float32Array.from(boxes);
}

/* Where an anchor stands: its level, location and j. */
function placeOf(levels, anchor) {
  let first = 0;
  for (let level = 0; level < levels.length; level++) {
    const { rows, columns, k } = levels[level], count = rows * columns * k;
    if (anchor < first + count) {
      const location = Math.floor((anchor - first) / k);
      return { level, location, j: (anchor - first) % k };
    }
    first += count;
  }
  return null;
}

function numberOf(levels, { level, location, j }) {
  let first = 0;
  for (let at = 0; at < level; at++) first += levels[at].rows * levels[at].columns * levels[at].k;
  return first + location * levels[level].k + j;
}

const boxAt = (boxes, index) => boxes.subarray(4 * index, 4 * index + 4);
const areaOf = (box) => f32(f32(box[2] - box[0]) * f32(box[3] - box[1]));

/* Intersection over union in float32, as torchvision.ops.box_iou; 0 for two boxes without area. */
function iouOf(a, b) {
  const width = Math.max(0, f32(Math.min(a[2], b[2]) - Math.max(a[0], b[0])));
  const height = Math.max(0, f32(Math.min(a[3], b[3]) - Math.max(a[1], b[1])));
  const inter = f32(width * height), union = f32(f32(areaOf(a) + areaOf(b)) - inter);
  return union > 0 ? f32(inter / union) : 0;
}

/* ------------------------------------------------------------------------------------------------------- coder */

const middle = (box) => { const w = box[2] - box[0], h = box[3] - box[1]; return [box[0] + w / 2, box[1] + h / 2, w, h]; };

function encode(coder, anchor, box) {
  const [xa, ya, wa, ha] = middle(anchor), [x, y, w, h] = middle(box);
  const t = [(x - xa) / wa, (y - ya) / ha, Math.log(w / wa), Math.log(h / ha)];
  return t.map((move, i) => coder.weights[i] * (move - coder.means[i]));
}

function decode(coder, anchor, deltas) {
  const [xa, ya, wa, ha] = middle(anchor), limit = coder.clip ?? Infinity;
  const [tx, ty, tw, th] = Array.from(deltas, (delta, i) => delta / coder.weights[i] + coder.means[i]);
  const x = tx * wa + xa, y = ty * ha + ya, w = Math.exp(Math.min(tw, limit)) * wa, h = Math.exp(Math.min(th, limit)) * ha;
  return [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
}

/* --------------------------------------------------------------------------------------------------- assigners */

/* IoU of every anchor with every box: iou[anchor * G + box]. */
function overlaps(anchors, boxes) {
  const count = anchors.length / 4, iou = new Float32Array(count * boxes.length);
  for (let a = 0; a < count; a++) {
    const anchor = boxAt(anchors, a);
    for (let g = 0; g < boxes.length; g++) iou[a * boxes.length + g] = iouOf(anchor, boxes[g]);
  }
  return iou;
}

/* Faster R-CNN 3.1.2: label and box of each anchor, its best IoU, and the best IoU of each box. */
function assignMaxIoU(anchors, boxes, { foreground, background, lowQuality }) {
  const count = anchors.length / 4, G = boxes.length, iou = overlaps(anchors, boxes);
  const label = new Int8Array(count), box = new Int32Array(count), best = new Float32Array(count), bestOfBox = new Float32Array(G);
  for (let a = 0; a < count; a++) {
    for (let g = 0; g < G; g++) {
      const value = iou[a * G + g];
      if (value > best[a]) { best[a] = value; box[a] = g; }
      if (value > bestOfBox[g]) bestOfBox[g] = value;
    }
    label[a] = best[a] >= f32(foreground) ? OBJECT : best[a] >= f32(background) ? IGNORE : BACKGROUND;
  }
  const rescued = new Uint8Array(count); // objects by the low-quality rule alone
  if (lowQuality) {
    for (let a = 0; a < count; a++) {
      for (let g = 0; g < G; g++) {
        if (bestOfBox[g] > 0 && iou[a * G + g] === bestOfBox[g] && label[a] !== OBJECT) { label[a] = OBJECT; rescued[a] = 1; }
      }
    }
  }
  return { label, box, best, bestOfBox, rescued, thresholds: null };
}

/* ATSS, algorithm 1: of each level and shape the nearest locations are candidates; their mean and deviation decide. */
function assignATSS(anchors, boxes, { candidates }, levels) {
  const count = anchors.length / 4, iou = overlaps(anchors, boxes), G = boxes.length;
  const label = new Int8Array(count), box = new Int32Array(count), best = new Float32Array(count), bestOfBox = new Float32Array(G);
  const won = new Float32Array(count), thresholds = [], candidate = new Uint8Array(count);
  for (let a = 0; a < count; a++) {
    for (let g = 0; g < G; g++) {
      best[a] = Math.max(best[a], iou[a * G + g]);
      bestOfBox[g] = Math.max(bestOfBox[g], iou[a * G + g]);
    }
  }
  boxes.forEach((wanted, g) => {
    const chosen = nearestAnchors(anchors, wanted, candidates, levels);
    const values = chosen.map((a) => iou[a * G + g]);
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    const spread = values.length > 1 ? Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1)) : 0;
    thresholds.push({ mean, spread, iou: mean + spread, candidates: chosen.length });
    for (const a of chosen) {
      candidate[a] = 1;
      const [x1, y1, x2, y2] = boxAt(anchors, a), x = f32(f32(x1 + x2) / 2), y = f32(f32(y1 + y2) / 2);
      const centred = x > wanted[0] && x < wanted[2] && y > wanted[1] && y < wanted[3];
      if (!centred || iou[a * G + g] < mean + spread) continue;
      if (label[a] !== OBJECT || iou[a * G + g] > won[a]) { label[a] = OBJECT; won[a] = iou[a * G + g]; box[a] = g; }
    }
  });
  return { label, box, best, bestOfBox, rescued: new Uint8Array(count), thresholds, candidate };
}

/* Of each level and shape the `count` anchors nearest to a box, the first of equals. */
function nearestAnchors(anchors, box, count, levels) {
  const x = (box[0] + box[2]) / 2, y = (box[1] + box[3]) / 2, chosen = [];
  let first = 0;
  for (const { rows, columns, k } of levels) {
    const locations = rows * columns;
    for (let j = 0; j < k; j++) {
      const away = new Float64Array(locations);
      for (let at = 0; at < locations; at++) {
        const [x1, y1, x2, y2] = boxAt(anchors, first + at * k + j);
        away[at] = ((y1 + y2) / 2 - y) ** 2 + ((x1 + x2) / 2 - x) ** 2;
      }
      const order = Array.from(away.keys()).sort((a, b) => away[a] - away[b]);
      for (const at of order.slice(0, count)) chosen.push(first + at * k + j);
    }
    first += locations * k;
  }
  return chosen;
}

/* ------------------------------------------------------------------------------------------------------ sampler */

/* At most `num` anchors, at most the share `fraction` of them objects, uniformly; background fills up. num null: all. */
function sampleOf(label, { num, fraction }, seed) {
  const next = generator(seed), of = { [OBJECT]: [], [BACKGROUND]: [] };
  label.forEach((value, a) => of[value]?.push(a));
  const choose = (from, count) => {
    if (from.length <= count) return from;
    for (let i = 0; i < count; i++) {
      const other = i + Math.floor(next() * (from.length - i));
      [from[i], from[other]] = [from[other], from[i]];
    }
    return from.slice(0, count).sort((a, b) => a - b);
  };
  const positive = num === null ? of[OBJECT] : choose(of[OBJECT], Math.floor(num * fraction));
  const negative = num === null ? of[BACKGROUND] : choose(of[BACKGROUND], num - positive.length);
  return { positive, negative };
}

/* ------------------------------------------------------------------------------------------- losses and training */

const crossEntropy = (z, y) => Math.max(z, 0) - z * y + Math.log1p(Math.exp(-Math.abs(z)));
const smoothL1 = (e, beta) => (Math.abs(e) < beta ? (e * e) / (2 * beta) : Math.abs(e) - beta / 2);
const smoothL1Slope = (e, beta) => (Math.abs(e) < beta ? e / beta : Math.sign(e));

/* Loss over a sample, and the gradient of every weight of the head. Both sums are divided by the sampled anchors. */
function lossOf(head, levels, anchors, boxes, assigned, sample, coder, beta, wantGradient = true) {
  const size = Math.max(1, sample.positive.length + sample.negative.length);
  const gradient = wantGradient ? gradientLike(head) : null;
  const cells = new Map(); // one pass through the head for each location of the sample
  const result = { objectness: 0, box: 0, size, gradient };
  for (const [list, y] of [[sample.positive, 1], [sample.negative, 0]]) {
    for (const a of list) {
      const { level, location, j } = placeOf(levels, a), key = level * 1e7 + location;
      if (!cells.has(key)) cells.set(key, { level, location, ...answerAt(head, levels[level], location), asked: [] });
      const cell = cells.get(key), z = cell.logits[j], asked = { j, slope: (sigmoid(z) - y) / size, slopes: null };
      result.objectness += crossEntropy(z, y) / size;
      if (y === 1) {
        const errors = encode(coder, boxAt(anchors, a), boxes[assigned.box[a]]).map((t, i) => cell.deltas[4 * j + i] - t);
        for (const e of errors) result.box += smoothL1(e, beta) / size;
        asked.slopes = errors.map((e) => smoothL1Slope(e, beta) / size);
      }
      cell.asked.push(asked);
    }
  }
  if (wantGradient) for (const cell of cells.values()) backward(head, levels[cell.level], cell, gradient);
  return { ...result, total: result.objectness + result.box };
}

function gradientLike(head) {
  const zeros = (one) => one && { weight: new Float64Array(one.weight.length), bias: new Float64Array(one.bias.length) };
  const outputs = Object.fromEntries(Object.entries(head.outputs).map(([k, pair]) => [k, { scores: zeros(pair.scores), deltas: zeros(pair.deltas) }]));
  return { conv: zeros(head.conv), outputs };
}

/* One location's part of the gradient: of its rows of the 1x1 convolutions, then through the ReLU of the 3x3 one. */
function backward(head, level, cell, gradient) {
  const pair = head.outputs[level.k], into = gradient.outputs[level.k], back = new Float64Array(head.width);
  const row = (name, o, slope) => {
    into[name].bias[o] += slope;
    for (let i = 0, w = o * head.width; i < head.width; i++, w++) {
      into[name].weight[w] += slope * cell.hidden[i];
      back[i] += slope * pair[name].weight[w];
    }
  };
  for (const { j, slope, slopes } of cell.asked) {
    if (head.perAnchor === 1) row("scores", j, slope);
    else { row("scores", 2 * j, -slope); row("scores", 2 * j + 1, slope); }
    slopes?.forEach((one, i) => row("deltas", 4 * j + i, one));
  }
  if (!head.conv) return;
  const inputs = new Float64Array(9 * head.channels);
  patch(level, head.channels, cell.location, inputs);
  for (let o = 0; o < head.width; o++) {
    if (cell.hidden[o] <= 0) continue;
    gradient.conv.bias[o] += back[o];
    for (let i = 0, w = o * inputs.length; i < inputs.length; i++, w++) gradient.conv.weight[w] += back[o] * inputs[i];
  }
}

/* One step of SGD as torch.optim.SGD takes it; `velocity` is of an earlier step, or null. Weights stay float32. */
function sgdStep(head, gradient, rate, momentum = 0, velocity = null) {
  const next = velocity ?? gradientLike(head);
  layersOf(gradient).forEach((slope, at) => {
    const target = layersOf(head)[at], speed = layersOf(next)[at];
    for (const part of ["weight", "bias"]) {
      for (let i = 0; i < slope[part].length; i++) {
        speed[part][i] = momentum * speed[part][i] + slope[part][i];
        target[part][i] -= rate * speed[part][i];
      }
    }
  });
  return next;
}

/* ---------------------------------------------------------------------------------------------------- proposals */

/* The best-scored anchors of each level, decoded and cut at the image's border; best first over all levels. */
function candidatesOf(levels, anchors, answer, coder, perLevel, size) {
  const found = [];
  let first = 0;
  levels.forEach((level, at) => {
    const count = level.rows * level.columns * level.k;
    const order = Array.from({ length: count }, (_, i) => first + i).sort((a, b) => answer.logits[b] - answer.logits[a]);
    for (const anchor of order.slice(0, perLevel)) {
      const box = decode(coder, boxAt(anchors, anchor), answer.deltas.subarray(4 * anchor, 4 * anchor + 4));
      const cut = Float32Array.from(box, (v, i) => Math.min(Math.max(v, 0), i % 2 ? size.height : size.width));
      if (cut[2] > cut[0] && cut[3] > cut[1]) found.push({ anchor, level: at, box: cut, score: f32(sigmoid(answer.logits[anchor])) });
    }
    first += count;
  });
  return found.sort((a, b) => b.score - a.score);
}

/* Non-maximum suppression: a candidate stays if no better one, of its level or of any, overlaps it by more. */
function nmsOf(candidates, iou, most = Infinity, ofAnyLevel = false) {
  const kept = [];
  for (const one of candidates) {
    if (kept.length >= most) break;
    if (liesApart(one, kept, iou, ofAnyLevel)) kept.push(one);
  }
  return kept;
}

const liesApart = (one, others, iou, ofAnyLevel) =>
  others.every((other) => (!ofAnyLevel && other.level !== one.level) || iouOf(other.box, one.box) <= iou);

/* NMS whose threshold follows the budget: tiers are [until so many proposals, IoU with those before at most]. */
function tieredOf(candidates, tiers, most, acrossLevels = 0) {
  let taken = [];
  for (const [count, iou] of tiers) {
    const ofAnyLevel = count <= acrossLevels;
    const left = candidates.filter((one) => !taken.includes(one) && liesApart(one, taken, iou, ofAnyLevel));
    taken = taken.concat(nmsOf(left, iou, Math.max(count - taken.length, 0), ofAnyLevel));
  }
  return taken.slice(0, most);
}

/* Which proposal finds which box, one to one and best proposal first, as COCO matches: rank of each box, or -1. */
function matchesOf(proposals, boxes, iou) {
  const rank = boxes.map(() => -1);
  const exact = (a, b) => {
    const w = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])), h = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
    const area = (c) => (c[2] - c[0]) * (c[3] - c[1]);
    return (w * h) / (area(a) + area(b) - w * h);
  };
  proposals.forEach(({ box }, at) => {
    let best = iou, chosen = -1;
    boxes.forEach((wanted, g) => {
      const value = rank[g] < 0 ? exact(box, wanted) : -1;
      if (value >= best) { best = value; chosen = g; }
    });
    if (chosen >= 0) rank[chosen] = at;
  });
  return rank;
}

const recallOf = (rank, budget) => (rank.length ? rank.filter((at) => at >= 0 && at < budget).length / rank.length : 0);
