/* The page of a comparison: what stands in the JSON element `content` becomes text, tables and charts.
 *
 * Every word that comes from a run is written with textContent or, for Plotly, which reads a few tags, through plain().
 * Nothing is computed here that somebody would cite: differences, intervals and verdicts come with the JSON. */
"use strict";

const content = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);

/* The palette's colours (plots/palette.py); with the dashes and symbols, two rows of one colour still differ. */
const { rows: COLOURS, shades: SHADES } = content.colours;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
const COLOURED = 12; // rows with a colour of their own; the others are thin and grey, and named on hover

const state = { table: null, rows: [], sort: { key: null, descending: true }, a: 0, b: 1, theme: "light", shown: null, unknown: [] };

/* ---------------------------------------------------------------------------------------------------- helpers */

function element(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const fill = (id, ...children) => byId(id).replaceChildren(...children.flat());
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\n/g, " ");
const short = (text, length = 44) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
/* At the commas, on two lines at most, for labels beside an axis. */
function wrapped(text, length) {
  const cut = text.length <= length ? -1 : Math.max(text.lastIndexOf(", ", length), -1);
  return cut < 0 ? plain(short(text, length)) : plain(text.slice(0, cut + 1)) + "<br>" + plain(short(text.slice(cut + 2), length));
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const spaced = (key) => key.replaceAll("_", " ");
const column = (rows, read) => rows.map(read).filter((value) => value !== null && value !== undefined);

function number(value, digits = 3) {
  if (!isNumber(value)) return value === null || value === undefined ? "–" : String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(digits).replace(/(\.\d*?[1-9])0+$|\.0+$/, "$1");
}
const share = (value) => (isNumber(value) ? value.toFixed(3) : "–");
const signed = (value) => (isNumber(value) ? (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3) : "?");
const withSpread = ([mean, sd]) => share(mean) + (isNumber(sd) ? " ± " + sd.toFixed(3) : "");
const interval = (d) => `[${signed(d.low)}, ${signed(d.high)}]`;
const chance = (p) => (!isNumber(p) ? "–" : p < 0.001 ? "< 0.001" : p > 0.999 ? "> 0.999" : p.toFixed(3));
const pValue = (p) => (!isNumber(p) ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return minutes ? `${minutes} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s` : `${Math.round(seconds)} s`;
}

function options(id, choices, chosen) {
  const select = byId(id);
  const before = chosen ?? select.value;
  select.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
  if (choices.some(([value]) => String(value) === String(before))) select.value = before;
  return select.value;
}

/* ------------------------------------------------------------------------------------------------------ table */

/* A column of the table: its heading, what it sorts and filters by, what it shows, and whether it is there unasked. */
function columns() {
  const table = state.table;
  const metric = content.metric;
  const swept = Object.entries(table.swept);
  const usual = [metric, ...["AR_100", "AR_1000", "recall_100"].filter((key) => key !== metric && key in table.metrics)];
  const others = Object.keys(table.metrics).filter((key) => !usual.includes(key));
  const has = (read) => table.rows.some((row) => read(row) !== null && read(row) !== undefined);
  const ofMetric = (key, shown) => ({ key, head: table.metrics[key], group: "metrics", shown, read: (row) => row.metrics[key]?.[0], show: (row) => (!row.metrics[key] ? "–" : key === metric ? withSpread(row.metrics[key]) : share(row.metrics[key][0])), title: key === metric ? spreadNote() : null });
  const ofSetting = (key, head, shown) => ({ key, head, group: shown === null ? "other settings that differ" : "swept settings", shown: shown ?? false, read: (row) => settingOf(row, key), text: !table.rows.every((row) => isNumber(settingOf(row, key))), show: (row) => exact(settingOf(row, key)), title: key });
  const all = [
    { key: "rank", head: "#", read: (row) => row.rank, shown: true },
    { key: "run", head: "run", read: (row) => row.label, text: true, show: nameCell, shown: true },
    ...swept.map(([key, head], at) => ofSetting(key, head, at < 6)),
    ...usual.map((key) => ofMetric(key, key === metric || swept.length <= 3)), // more would not fit on a screen
    { key: "difference", head: "difference", read: (row) => row.difference?.estimate, show: (row) => (row.difference ? `${signed(row.difference.estimate)} ${interval(row.difference)}` : "–"), shown: true },
    { key: "verdict", head: "verdict", read: (row) => row.verdict, text: true, show: (row) => element("span", { class: row.rank === null ? null : row.verdict.replace(" ", "-") }, row.verdict + (row.rank === null && row.difference ? " so far" : "")), shown: true },
    { key: "better", head: "P(better)", read: (row) => row.difference?.better, show: (row) => chance(row.difference?.better) },
    { key: "p", head: "p (Holm)", read: (row) => row.difference?.p, show: (row) => pValue(row.difference?.p) },
    { key: "seeds", head: "seeds", read: (row) => row.seeds.length, shown: table.rows.some((row) => row.seeds.length > 1) },
    { key: "status", head: "status", read: (row) => row.status, text: true, shown: table.rows.some((row) => row.status !== "finished") },
    { key: "time", head: "time", read: (row) => row.time, show: (row) => duration(row.time), shown: true },
    { key: "rate", head: "images/s", read: (row) => row.rate },
    ...table.axes.map((key) => ({ key, head: spaced(key), group: "anchors", read: (row) => row.axes[key] })),
    ...others.map((key) => ofMetric(key, false)),
    ...table.settings.filter((key) => !(key in table.swept)).map((key) => ofSetting(key, key.replace("._target_", ""), null)),
  ];
  const alone = table.rows.length === 1 ? ["verdict"] : []; // the one row is compared with nothing
  return all.filter((one) => has(one.read) && !alone.includes(one.key));
}

const shownColumns = () => columns().filter((one) => (state.shown ? state.shown.includes(one.key) : one.shown));
const settingOf = (row, key) => row.values[key] ?? row.settings[key] ?? null;
const exact = (value) => (isNumber(value) ? String(value) : value ?? "–"); // a setting as it was typed: 0.0003, not 0
const spreadNote = () => (state.table.rows.some((row) => row.seeds.length > 1) ? "mean ± standard deviation over the seeds of the row" : null);

/* The run's name, which leads to its folder; what tells it from the others stands in the columns of the settings. */
function nameCell(row) {
  const link = row.runs[0].link;
  const folders = row.runs.map((run) => run.folder).join("\n");
  const name = link === null ? element("span", { title: folders }, row.name) : element("a", { href: `./${link}`, title: `open ${folders}` }, row.name);
  const more = [...row.runs.slice(1).map((run, at) => (run.link === null ? null : element("a", { href: `./${run.link}`, title: run.folder }, `seed ${row.seeds[at + 1]}`)))].filter(Boolean).flatMap((one) => [" · ", one]);
  const under = [Object.keys(state.table.swept).length ? null : row.label === row.name ? null : row.label, row.reason].filter(Boolean).join(" · ");
  return [name, element("span", { class: "small" }, under, more.slice(under ? 0 : 1))];
}

/* Boxes for every column, in groups; those of the table are ticked. */
function drawChooser() {
  const all = columns();
  const chosen = new Set(shownColumns().map((one) => one.key));
  const groups = [...new Set(all.map((one) => one.group ?? "run"))];
  const box = (one) => element("label", { title: one.title }, element("input", { type: "checkbox", value: one.key, checked: chosen.has(one.key), onchange: choose }), ` ${one.head}`);
  fill("columns", groups.map((group) => element("fieldset", {}, element("legend", {}, group), all.filter((one) => (one.group ?? "run") === group).map(box))), element("button", { type: "button", onclick: () => choose(null) }, "the usual ones"));
}

function choose(event) {
  state.shown = event === null ? null : [...byId("columns").querySelectorAll("input:checked")].map((input) => input.value);
  if (event === null) drawChooser();
  drawTable();
  remember();
}

/* The rows that are shown, in their order, with every column; as comparison.csv, but filtered. */
function csv() {
  const cell = (value) => (value === null || value === undefined ? "" : /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const all = columns();
  const heads = all.flatMap((one) => (one.key in state.table.metrics ? [one.key, `${one.key}_sd`] : one.key === "difference" ? ["difference", "low", "high"] : one.key === "run" ? ["run", "label"] : [one.key]));
  const cells = (row) => all.flatMap((one) => (one.key in state.table.metrics ? row.metrics[one.key] ?? ["", ""] : one.key === "difference" ? [row.difference?.estimate, row.difference?.low, row.difference?.high] : one.key === "run" ? [row.name, row.label] : [one.read(row)]));
  return [[...heads, "folders"], ...state.rows.map((row) => [...cells(row), row.runs.map((run) => run.folder).join(" ; ")])].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function saveCsv() {
  const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  const link = element("a", { href: address, download: "comparison-filtered.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function drawTable() {
  const all = shownColumns();
  const head = element("tr", {}, element("th", { class: "text", title: "drawn in blue" }, element("span", { class: "a" }, "A")), element("th", { class: "text" }, element("span", { class: "b" }, "B")),
    all.map((one) => element("th", { class: one.text ? "text" : null, scope: "col", "aria-sort": sortOf(one), title: one.title }, element("button", { type: "button", "data-key": one.key, onclick: () => sortBy(one) }, one.head))));
  const body = state.rows.map((row) => element("tr", { class: row.verdict === "baseline" ? "baseline" : row.rank === null ? "unfinished" : null, "data-row": row.index },
    ["a", "b"].map((side) => element("td", { class: "pick" }, element("input", { type: "radio", name: `pick-${side}`, class: `pick-${side}`, "aria-label": `${side.toUpperCase()}: ${row.label}`, onchange: () => pick(side, row.index) }))),
    all.map((one) => element("td", { class: one.key === "run" ? "name" : one.text ? "text" : null }, one.show ? one.show(row) : number(one.read(row))))));
  const nothing = element("tr", {}, element("td", { class: "text", colspan: all.length + 2 }, nothingMatches()));
  fill("table", element("thead", {}, head), element("tbody", {}, body.length ? body : nothing));
  markPicks();
  const total = state.table.rows.length;
  byId("shown").textContent = state.rows.length < total ? `${state.rows.length} of ${total} rows` : total === 1 ? "1 row" : `${total} rows`;
}

function nothingMatches() {
  const unknown = state.unknown.length ? ` There is no column ${state.unknown.join(", ")}: settings, metrics and columns can be compared, such as ${columns().filter((one) => one.shown).slice(2, 5).map((one) => one.head).join(", ")}.` : "";
  return `No row matches “${byId("filter").value.trim()}”.${unknown}`;
}

const sortOf = (one) => (state.sort.key !== one.key ? "none" : state.sort.descending ? "descending" : "ascending");

function sortBy(one) {
  const again = state.sort.key === one.key;
  state.sort = { key: one.key, descending: again ? !state.sort.descending : !(one.text || one.key === "rank") };
  select();
  byId("table").querySelector(`button[data-key="${CSS.escape(one.key)}"]`).focus();
}

/* Words have to stand in the row; `key >= value` compares a column, an axis, a metric or a setting, with blanks around
 * the sign or without. What has blanks itself stands in quotes or brackets. */
function terms(text) {
  const word = String.raw`"[^"]*"|\[[^\]]*\]|[^\s"]+`;
  const condition = new RegExp(String.raw`([A-Za-z_][\w.@]*)\s*(>=|<=|!=|==|=|>|<)\s*(${word})|(${word})`, "g");
  const bare = (part) => part.replace(/^"|"$/g, "");
  return [...text.matchAll(condition)].map(([, key, sign, value, plainWord]) => (key ? { key: key.replace("@", "_"), sign: sign === "==" ? "=" : sign, value: bare(value) } : { word: bare(plainWord).toLowerCase() }));
}

const compact = (value) => String(value ?? "").toLowerCase().replace(/\s+/g, "");

function wanted(row, conditions) {
  return conditions.every(({ word, key, sign, value: asked }) => {
    if (word !== undefined) return searched(row).includes(word);
    const value = valueOf(row, key);
    const limit = Number(asked);
    if (!isNumber(value) || Number.isNaN(limit)) {
      const same = compact(value) === compact(asked);
      return sign === "=" ? same : sign === "!=" && !same;
    }
    return { ">=": value >= limit, "<=": value <= limit, ">": value > limit, "<": value < limit, "=": value === limit, "!=": value !== limit }[sign];
  });
}

const searched = (row) => [row.label, row.name, row.status, row.verdict, ...row.runs.flatMap((run) => [run.id, run.folder])].join(" ").toLowerCase();

function valueOf(row, key) {
  if (key in row.metrics) return row.metrics[key][0];
  if (key in row.axes) return row.axes[key];
  const setting = Object.keys(row.settings).find((name) => [name, name.replace("._target_", "")].some((full) => full === key || full.endsWith("." + key)));
  if (setting) return settingOf(row, setting);
  return columns().find((one) => one.key === key)?.read(row);
}

/* The rows that the filter keeps, in the order that was asked for; everything else follows. */
function select() {
  const conditions = terms(byId("filter").value);
  const keys = [...new Set(conditions.filter(({ key }) => key).map(({ key }) => key))];
  state.unknown = keys.filter((key) => state.table.rows.every((row) => valueOf(row, key) === undefined));
  const rows = state.table.rows.filter((row) => wanted(row, conditions));
  const one = columns().find((each) => each.key === state.sort.key);
  if (one) {
    const direction = state.sort.descending ? -1 : 1;
    rows.sort((x, y) => {
      const [p, q] = [one.read(x), one.read(y)];
      if (p === q) return x.index - y.index;
      if (p === null || p === undefined) return 1;
      if (q === null || q === undefined) return -1;
      return direction * (isNumber(p) && isNumber(q) ? p - q : String(p).localeCompare(String(q), "en", { numeric: true }));
    });
  }
  state.rows = rows;
  drawTable();
  remember();
  Object.keys(CHARTS).forEach((id) => stale.add(id));
  clearTimeout(select.waiting);
  select.waiting = setTimeout(drawCharts, 120); // not at every letter of a filter
}

/* ----------------------------------------------------------------------------------------------------- charts */

/* How a row is drawn everywhere: A blue, B orange, the best few with colours of their own, the rest and what has not finished grey. */
function style(row) {
  if (row.index === state.a) return { colour: css("--a"), width: 3.2, dash: "solid", symbol: "circle", size: 12, front: 2 };
  if (row.index === state.b) return { colour: css("--b"), width: 3.2, dash: "solid", symbol: "diamond", size: 13, front: 2 };
  const palette = COLOURS[state.theme];
  const at = row.index;
  if (at >= COLOURED || row.rank === null) return { colour: css("--faint"), width: 1, dash: "solid", symbol: "circle", size: 7, front: 0 };
  return { colour: palette[at % palette.length], width: 1.6, dash: DASHES[at % DASHES.length], symbol: SYMBOLS[at % SYMBOLS.length], size: 9, front: 1 };
}

function layout(more = {}) {
  const axis = { gridcolor: css("--grid"), zerolinecolor: css("--line"), linecolor: css("--line"), tickcolor: css("--line"), automargin: true, title: { standoff: 8 } };
  const { xaxis = {}, yaxis = {}, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 13, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 56, r: 12, t: 12, b: 48 }, height: 380, modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--line"), activecolor: css("--soft") }, hovermode: "closest", showlegend: false,
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { color: css("--ink") }, align: "left", namelength: -1 },
    xaxis: { ...axis, ...xaxis, title: { ...axis.title, ...xaxis.title } }, yaxis: { ...axis, ...yaxis, title: { ...axis.title, ...yaxis.title } }, ...rest,
  };
}

const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"], toImageButtonOptions: { format: "svg", filename: "anchorlab" } };

function draw(id, traces, more, description, config = {}) {
  const node = byId(id);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", description);
  if (!traces.length) {
    Plotly.purge(node);
    node.classList.add("empty");
    node.style.height = "";
    node.replaceChildren("Nothing to draw: no row shown has these metrics.");
    return;
  }
  if (node.classList.contains("empty")) node.replaceChildren();
  node.classList.remove("empty");
  const whole = layout(more);
  node.style.height = `${whole.height}px`; // Plotly's picture alone does not push what follows
  Plotly.react(node, traces, whole, { ...CONFIG, ...config });
}

/* A legend only where it can be read: A, B and the coloured rows, at most eight. */
function legendFor(rows, narrow = window.innerWidth < 560) {
  const named = [...rows].sort((x, y) => style(y).front - style(x).front || x.index - y.index).filter((row) => style(row).front > 0).slice(0, narrow ? 4 : 8);
  const set = new Set(named.map((row) => row.index));
  return { set, layout: { showlegend: set.size > 1, legend: { orientation: "h", y: -0.2, yanchor: "top", x: 0, font: { size: 11.5 }, bgcolor: "rgba(0,0,0,0)", itemclick: false, itemdoubleclick: false }, height: 380 + 22 * Math.ceil(set.size / (narrow ? 1 : 2)) } };
}

const inFront = (rows) => [...rows].sort((x, y) => style(x).front - style(y).front);
const named = (row) => (row.index === state.a ? "A: " : row.index === state.b ? "B: " : "") + row.label;

/* One trace for each row that has a colour, and one for all grey rows together: hundreds of traces would be slow.
 * `read(row)` gives the row's lines as [x, y, what stands behind its name]. */
function lines(rows, read, legend, hover, more = () => ({})) {
  const front = inFront(rows).filter((row) => style(row).front > 0).flatMap((row) => read(row).map(([x, y, note = ""], at) => {
    const { colour, width, dash } = style(row);
    return { type: "scatter", mode: "lines", x, y, name: plain(short(named(row))), showlegend: at === 0 && legend.set.has(row.index), legendrank: legendRank(row), line: { color: colour, width, dash }, text: x.map(() => title(row) + plain(note)), hovertemplate: hover, ...more(row, x) };
  }));
  const rest = rows.filter((row) => style(row).front === 0).flatMap((row) => read(row).map(([x, y, note = ""]) => [x, y, title(row) + plain(note)]));
  if (!rest.length) return front;
  const joined = { x: rest.flatMap(([x]) => [...x, null]), y: rest.flatMap(([, y]) => [...y, null]), text: rest.flatMap(([x, , text]) => [...x.map(() => text), ""]) };
  return [{ type: "scatter", mode: "lines", connectgaps: false, ...joined, name: "others", showlegend: false, line: { color: css("--faint"), width: 1 }, hovertemplate: hover }, ...front];
}

const legendRank = (row) => (row.index === state.a ? 1 : row.index === state.b ? 2 : 10 + row.index);
const placed = (row) => (row.rank === null ? `(${row.status}) ` : `${row.rank}. `);
const title = (row) => plain(placed(row) + named(row));

/* Charts are drawn when they come into view, and again when something has changed since. */
const CHARTS = { forest: drawForest, "by-budget": drawBudgets, "by-iou": drawThresholds, importance: drawImportance, slice: drawSlice, heat: drawHeat, parallel: drawParallel, pareto: drawPareto, "by-size": drawSizes, curves: drawLearning };
const stale = new Set();
const watcher = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => refresh(entry.target.id)), { rootMargin: "300px" });

function refresh(id) {
  if (stale.delete(id)) CHARTS[id]();
}

function drawCharts() {
  for (const id of Object.keys(CHARTS)) {
    stale.add(id);
    watcher.unobserve(byId(id)); // to be told again where it stands
    watcher.observe(byId(id));
  }
}

function drawForest() {
  const table = state.table;
  const rows = state.rows.filter((row) => row.difference && isNumber(row.difference.low)).slice(0, 40).reverse();
  const base = table.baseline === null ? null : table.rows[table.baseline];
  byId("differences").hidden = base === null || table.rows.length < 2;
  document.querySelector('nav a[href="#differences"]').hidden = byId("differences").hidden;
  if (base === null) return;
  byId("against").textContent = `of ${table.metrics[content.metric]} against ${table.chosen ? "the baseline" : "the leader"}, ${base.label}`;
  const look = { better: ["circle", css("--better")], worse: ["diamond", css("--worse")], "cannot tell": ["circle-open", css("--open")] };
  const narrow = window.innerWidth < 560;
  const traces = Object.entries(look).map(([verdict, [symbol, colour]]) => {
    const mine = rows.filter((row) => row.verdict === verdict);
    return { type: "scatter", mode: "markers", name: verdict, x: mine.map((row) => row.difference.estimate), y: mine.map((row) => row.index),
      error_x: { type: "data", symmetric: false, array: mine.map((row) => row.difference.high - row.difference.estimate), arrayminus: mine.map((row) => row.difference.estimate - row.difference.low), color: colour, thickness: 1.6, width: 4 },
      marker: { symbol, size: 10, color: colour, line: { width: 2, color: colour } }, customdata: mine.map((row) => [plain(row.label), signed(row.difference.estimate), interval(row.difference), chance(row.difference.better), pValue(row.difference.p)]),
      hovertemplate: "%{customdata[0]}<br>%{customdata[1]} %{customdata[2]}<br>P(better) %{customdata[3]}, p (Holm) %{customdata[4]}<extra></extra>" };
  }).filter((trace) => trace.x.length);
  draw("forest", traces, {
    height: 110 + (narrow ? 40 : 30) * rows.length, showlegend: true, legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, itemclick: false, itemdoubleclick: false },
    xaxis: { title: { text: "difference" }, zeroline: true, zerolinecolor: css("--ink"), zerolinewidth: 1.4, tickformat: "+.3~f" },
    yaxis: { type: "category", categoryorder: "array", categoryarray: rows.map((row) => row.index), tickvals: rows.map((row) => row.index), ticktext: rows.map((row) => wrapped((row.rank === null ? placed(row) : "") + row.label, narrow ? 18 : 68)), showgrid: false },
  }, "Differences to the baseline with their intervals");
  const percent = number(100 * content.confidence, 2);
  byId("forest-caption").textContent = `${percent} % intervals by paired bootstrap over images${table.rows.some((row) => row.seeds.length > 1) ? " and seeds" : ""}, each for its comparison alone; the verdict holds after Holm's correction for all of them.` + (state.rows.length > 41 ? " The first 40 rows are drawn." : "");
}

function drawBudgets() {
  const kind = byId("curve").value;
  const legend = legendFor(state.rows);
  const traces = lines(state.rows, (row) => [[state.table.budgets, row.curves[kind]]], legend, "%{text}<br>N = %{x}: %{y:.3f}<extra></extra>");
  const last = Math.max(...state.table.budgets);
  const ticks = [1, 10, 100, 1000].filter((n) => n <= last);
  draw("by-budget", traces, { ...legend.layout, xaxis: { type: "log", title: { text: "proposals per image N" }, range: [-0.03, Math.log10(last) + 0.03], tickvals: ticks, ticktext: ticks.map(String) }, yaxis: { title: { text: kind === "AR" ? "AR" : "recall" }, rangemode: "tozero" } }, "Recall against the number of proposals");
}

function drawThresholds() {
  const budget = byId("budget").value;
  const legend = legendFor(state.rows);
  const traces = lines(state.rows, (row) => (row.curves.iou[budget] ? [[state.table.thresholds, row.curves.iou[budget]]] : []), legend, "%{text}<br>IoU %{x:.2f}: %{y:.3f}<extra></extra>");
  draw("by-iou", traces, { ...legend.layout, xaxis: { title: { text: "IoU" }, dtick: 0.1, range: [0.49, 0.96] }, yaxis: { title: { text: `recall@${budget}` }, rangemode: "tozero" } }, "Recall against IoU");
}

/* A scale of its own for every axis, drawn from bottom to top; rows as lines, coloured by the metric at the end. The
 * lines are ordinary ones, not Plotly's parcoords: those need WebGL, are a pixel thin, and cannot be hovered. */
function drawParallel() {
  const rows = state.rows;
  const table = state.table;
  const metric = content.metric;
  const swept = Object.entries(table.swept).map(([key, label]) => [label, (row) => settingOf(row, key), exact]);
  const names = swept.map(([label]) => label);
  const derived = table.axes.filter((key) => !names.includes(key)).map((key) => [spaced(key), (row) => row.axes[key], number]);
  const axes = [...swept, ...derived].map(([label, read, format]) => scale(label, rows.map(read), format)).filter((axis) => axis.varied).slice(0, Math.max(7, swept.length));
  byId("parallel").style.minWidth = `${130 * (axes.length + 1)}px`; // heads stand side by side
  axes.push(scale(table.metrics[metric], rows.map((row) => row.metrics[metric][0]), share));
  const scores = rows.map((row) => row.metrics[metric][0]);
  const ends = rows.filter((row) => row.rank !== null).map((row) => row.metrics[metric][0]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const traces = rows.map((row, at) => {
    const { front } = style(row);
    const colour = front === 2 || row.rank === null ? style(row).colour : shade(high > low ? (scores[at] - low) / (high - low) : 1);
    return { type: "scatter", mode: "lines+markers", x: axes.map((_, place) => place), y: axes.map((axis) => axis.places[at]), line: { color: colour, width: front === 2 ? 3.2 : 1.5, dash: row.rank === null ? "dot" : "solid" }, marker: { color: colour, size: front === 2 ? 8 : 5 }, opacity: front === 2 ? 1 : rows.length > 40 ? 0.45 : 0.8, cliponaxis: false, showlegend: false,
      text: axes.map((axis) => `${title(row)}<br>${axis.label}: ${axis.shown[at]}`), hovertemplate: "%{text}<extra></extra>" };
  });
  const ticks = axes.flatMap((axis, place) => axis.ticks.map(([y, text]) => ({ x: place, y, text, xanchor: "right", xshift: -6, showarrow: false, font: { size: 11, color: css("--soft") }, bgcolor: css("--paper"), borderpad: 1, opacity: 0.92 })));
  const heads = axes.map((axis, place) => ({ x: place, y: 1.09, text: `<b>${plain(short(axis.name, 17))}</b>`, showarrow: false, font: { size: 12 } }));
  const order = traces.map((_, at) => at).sort((x, y) => style(rows[x]).front - style(rows[y]).front || scores[x] - scores[y]);
  draw("parallel", rows.length && axes.length > 1 ? order.map((at) => traces[at]) : [], { height: 420, margin: { l: 70, r: 46, t: 20, b: 12 }, annotations: [...ticks, ...heads],
    shapes: axes.map((_, place) => ({ type: "line", x0: place, x1: place, y0: 0, y1: 1, layer: "below", line: { color: css("--soft"), width: 1 } })),
    xaxis: { visible: false, range: [-0.12, axes.length - 0.94], fixedrange: true }, yaxis: { visible: false, range: [-0.04, 1.14], fixedrange: true } }, "Parallel coordinates of the settings and the metric", { displayModeBar: false });
  byId("parallel-caption").textContent = `One line a row, from what was set to what came out: ${state.theme === "light" ? "darker" : "brighter"} is higher, A is blue, B orange, dotted grey has not finished. A condition in the filter, such as k>=6, keeps a part.`;
}

/* Whether numbers are better shown by their logarithm, as learning rates are. */
const spansDecades = (values) => values.length > 1 && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) >= 20;

/* Where each value stands between 0 and 1: numbers by their size, anything else by its order. */
function scale(name, values, format = number) {
  const numeric = values.every((value) => isNumber(value) || value === null || value === undefined);
  const known = numeric ? [...new Set(values.filter(isNumber))].sort((x, y) => x - y) : [...new Set(values.map(String))].sort((x, y) => x.localeCompare(y, "en", { numeric: true }));
  const [ahead, back] = numeric && spansDecades(known) ? [Math.log, Math.exp] : [(value) => value, (value) => value];
  const [first, last] = numeric && known.length ? [ahead(known[0]), ahead(known.at(-1))] : [0, 1];
  const at = (value) => {
    if (!numeric) return known.length > 1 ? known.indexOf(String(value)) / (known.length - 1) : 0.5;
    return !isNumber(value) ? null : known.length > 1 ? (ahead(value) - first) / (last - first) : 0.5;
  };
  const few = known.length <= 9 ? known : numeric ? [0, 0.25, 0.5, 0.75, 1].map((part) => Number(back(first + part * (last - first)).toPrecision(3))) : known.filter((_, place) => place % Math.ceil(known.length / 9) === 0);
  const ticks = [];
  for (const value of few) {
    if (!ticks.length || at(value) - ticks.at(-1)[0] > 0.045) ticks.push([at(value), plain(short(numeric ? format(value) : value, 18))]);
  }
  return { name, label: plain(name), varied: known.length > 1, places: values.map(at), shown: values.map((value) => plain(short(isNumber(value) ? format(value) : String(value ?? "–"), 60))), ticks };
}

function shade(part) {
  const stops = state.theme === "light" ? [...SHADES].reverse() : SHADES.slice(1);
  return stops[Math.min(stops.length - 1, Math.floor(part * stops.length))];
}

const sweptOf = () => Object.entries(state.table.swept);

function drawImportance() {
  const found = state.table.importance;
  byId("importance-figure").hidden = !found;
  if (!found) return;
  const rows = [...found.settings].reverse();
  const names = rows.map((one) => plain(short(state.table.swept[one.key], 20)));
  draw("importance", [{ type: "bar", orientation: "h", x: rows.map((one) => one.share), y: rows.map((one) => one.key), marker: { color: css("--a"), opacity: 0.75 }, error_x: { type: "data", symmetric: false, array: rows.map((one) => one.high - one.share), arrayminus: rows.map((one) => one.share - one.low), color: css("--ink"), thickness: 1.4, width: 5 },
    customdata: rows.map((one) => [plain(one.key), share(one.low), share(one.high)]), hovertemplate: "%{customdata[0]}<br>%{x:.3f} [%{customdata[1]}, %{customdata[2]}]<extra></extra>" }],
  { height: 96 + 44 * rows.length, xaxis: { title: { text: `share of the variance of ${plain(state.table.metrics[content.metric])}` }, range: [0, 1.02] }, yaxis: { type: "category", tickvals: rows.map((one) => one.key), ticktext: names, showgrid: false } }, "Importance of the swept settings");
  const says = found.fit > 0.5 ? "" : found.fit > 0.1 ? " That is little: read the shares with care." : " That is nothing: the settings do not predict the metric, and the shares mean nothing.";
  byId("importance-caption").textContent = `What each setting explains alone of the metric's variance over the whole space (functional ANOVA of regression trees on all ${found.runs} finished runs, whatever the filter); the lines span the middle 90 % of 100 trees, each grown on runs drawn anew. Of runs that they have not seen the trees explain ${number(100 * Math.max(0, found.fit), 0)} %.${says} What is missing to 1 is settings acting together.`;
}

/* Values of a setting in order; numbers of which there are many, in bands of as many rows each. */
function bands(rows, key, most = 9) {
  const values = rows.map((row) => settingOf(row, key));
  const numeric = values.every(isNumber);
  const known = [...new Set(values)].sort((x, y) => (numeric ? x - y : String(x ?? "–").localeCompare(String(y ?? "–"), "en", { numeric: true })));
  if (!numeric || known.length <= most + 3) return { names: known.map(exact), at: (row) => known.indexOf(settingOf(row, key)) };
  const sorted = [...values].sort((x, y) => x - y);
  const starts = [...new Set(Array.from({ length: most }, (_, part) => sorted[Math.floor((part * sorted.length) / most)]))];
  const at = (row) => starts.findLastIndex((start) => settingOf(row, key) >= start);
  return { names: starts.map((start, place) => `${exact(start)} – ${exact(place + 1 < starts.length ? sorted.findLast((value) => value < starts[place + 1]) : sorted.at(-1))}`), at };
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function drawSlice() {
  const key = byId("slice-of").value;
  const rows = state.rows;
  const metric = content.metric;
  const numeric = rows.every((row) => isNumber(settingOf(row, key)));
  const values = rows.map((row) => settingOf(row, key)).filter(isNumber);
  const wide = numeric && spansDecades(values);
  const score = (row) => row.metrics[metric][0];
  const place = (row) => (numeric ? settingOf(row, key) : plain(short(exact(settingOf(row, key)), 24)));
  const { names, at } = bands(rows, key, 12);
  const groups = names.map((_, number) => rows.filter((row) => row.rank !== null && at(row) === number)).filter((group) => group.length);
  const centre = (group) => (numeric ? [...group.map(place)].sort((x, y) => x - y)[Math.floor(group.length / 2)] : place(group[0]));
  const means = { type: "scatter", mode: "lines", x: groups.map(centre), y: groups.map((group) => average(group.map(score))), line: { color: css("--soft"), width: 1.6, dash: "dot" }, name: "mean", hoverinfo: "skip", showlegend: false };
  const points = (some, marker) => ({ type: "scatter", mode: "markers", x: some.map(place), y: some.map(score), marker, customdata: some.map((row) => [title(row), withSpread(row.metrics[metric]), exact(settingOf(row, key))]), hovertemplate: `%{customdata[0]}<br>${plain(state.table.metrics[metric])} %{customdata[1]}<br>${plain(state.table.swept[key] ?? "")}: %{customdata[2]}<extra></extra>`, showlegend: false });
  const front = rows.filter((row) => style(row).front === 2);
  const rest = rows.filter((row) => style(row).front < 2);
  const traces = [groups.length > 1 ? means : null, points(rest, { color: css("--faint"), size: 8, symbol: rest.map((row) => (row.rank === null ? "x-thin" : "circle")), line: { width: 1, color: css("--soft") } }), ...front.map((row) => points([row], { color: style(row).colour, symbol: style(row).symbol, size: 13 }))].filter(Boolean);
  draw("slice", rows.length && key ? traces : [], { xaxis: { title: { text: plain(state.table.swept[key] ?? "") }, type: numeric ? (wide ? "log" : "linear") : "category", exponentformat: "none", ...(numeric && names.length < 8 ? { tickvals: [...new Set(values)], ticktext: [...new Set(values)].map(exact) } : {}) }, yaxis: { title: { text: plain(state.table.metrics[metric]) } } }, "The metric against one setting");
}

function drawHeat() {
  const [across, up] = ["heat-x", "heat-y"].map((id) => byId(id).value);
  byId("heat-figure").hidden = sweptOf().length < 2;
  if (sweptOf().length < 2) return;
  const rows = state.rows.filter((row) => row.rank !== null);
  const [x, y] = [bands(rows, across), bands(rows, up)];
  const cells = y.names.map((_, j) => x.names.map((_, i) => rows.filter((row) => x.at(row) === i && y.at(row) === j).map((row) => row.metrics[content.metric][0])));
  const stops = state.theme === "light" ? [...SHADES].reverse() : SHADES;
  const lines = x.names.some((name) => String(name).length > 8);
  draw("heat", rows.length && across !== up ? [{ type: "heatmap", z: cells.map((row) => row.map((values) => (values.length ? average(values) : null))), x: x.names.map((_, i) => i), y: y.names.map((_, j) => j), xgap: 2, ygap: 2, hoverongaps: false, texttemplate: x.names.length * y.names.length <= 100 ? "%{z:.3f}" : "", colorscale: stops.map((colour, at) => [at / (stops.length - 1), colour]), colorbar: { thickness: 12, outlinewidth: 0, title: { text: plain(state.table.metrics[content.metric]), side: "right" } },
    customdata: cells.map((row, j) => row.map((values, i) => [plain(x.names[i]), plain(y.names[j]), values.length, values.length ? `${share(Math.min(...values))} to ${share(Math.max(...values))}` : ""])), hovertemplate: `${plain(state.table.swept[across] ?? "")} %{customdata[0]}, ${plain(state.table.swept[up] ?? "")} %{customdata[1]}<br>mean %{z:.3f} of %{customdata[2]} rows (%{customdata[3]})<extra></extra>` }] : [],
  { height: Math.max(260, 110 + 46 * y.names.length), xaxis: { title: { text: plain(state.table.swept[across] ?? "") }, tickvals: x.names.map((_, i) => i), ticktext: x.names.map((name) => plain(short(name, 18))), tickangle: lines ? -35 : 0, showgrid: false, zeroline: false }, yaxis: { title: { text: plain(state.table.swept[up] ?? "") }, tickvals: y.names.map((_, j) => j), ticktext: y.names.map((name) => plain(short(name, 18))), showgrid: false, zeroline: false } }, "Mean of the metric over two settings");
}

const COSTS = {
  anchors_per_image: ["anchors per image", (row) => row.axes.anchors_per_image],
  k: ["k, anchors per location", (row) => row.axes.k],
  time: ["time of the run in minutes", (row) => (isNumber(row.time) ? row.time / 60 : null)],
  rate: ["seconds to train on 1,000 images", (row) => (isNumber(row.rate) && row.rate > 0 ? 1000 / row.rate : null)],
};

function drawPareto() {
  const [label, read] = COSTS[byId("cost-axis").value] ?? ["", () => null];
  const metric = content.metric;
  const rows = state.rows.filter((row) => isNumber(read(row)));
  const front = [];
  for (const row of rows.filter((one) => one.rank !== null).sort((x, y) => read(x) - read(y) || y.metrics[metric][0] - x.metrics[metric][0])) {
    if (!front.length || row.metrics[metric][0] > front.at(-1).metrics[metric][0]) front.push(row);
  }
  const legend = legendFor(rows);
  const value = (row) => row.metrics[metric][0];
  const steps = { type: "scatter", mode: "lines", x: front.map(read), y: front.map(value), line: { color: css("--soft"), width: 1.4, dash: "dot", shape: "hv" }, hoverinfo: "skip", showlegend: false };
  const points = (some, more) => ({ type: "scatter", mode: "markers", x: some.map(read), y: some.map(value), customdata: some.map((row) => [title(row), withSpread(row.metrics[metric]), number(read(row), 2)]), hovertemplate: `%{customdata[0]}<br>${plain(state.table.metrics[metric])} %{customdata[1]}<br>${label}: %{customdata[2]}<extra></extra>`, ...more });
  const rest = rows.filter((row) => style(row).front === 0);
  const traces = !rows.length ? [] : [steps, points(rest, { showlegend: false, marker: { color: css("--faint"), size: 7, line: { width: rest.map((row) => (front.includes(row) ? 2 : 0)), color: css("--ink") } } })];
  for (const row of inFront(rows).filter((one) => style(one).front > 0)) {
    const { colour, symbol, size } = style(row);
    const sd = row.metrics[metric][1];
    traces.push(points([row], { name: plain(short(named(row))), showlegend: legend.set.has(row.index), legendrank: legendRank(row), error_y: isNumber(sd) ? { type: "data", array: [sd], color: colour, thickness: 1.2, width: 3 } : undefined,
      marker: { color: colour, symbol, size, line: { width: front.includes(row) ? 2 : 1, color: front.includes(row) ? css("--ink") : colour } } }));
  }
  draw("pareto", traces, { ...legend.layout, xaxis: { title: { text: label }, rangemode: "normal" }, yaxis: { title: { text: plain(state.table.metrics[metric]) } } }, "Score against cost, with the Pareto front");
}

function drawSizes() {
  const budget = byId("size-budget").value;
  const kinds = [["AR_s", "small"], ["AR_m", "medium"], ["AR_l", "large"]];
  const legend = legendFor(state.rows);
  const values = (row) => kinds.map(([key]) => row.metrics[`${key}_${budget}`]?.[0] ?? null).map((value) => (value === null || value < 0 ? null : value));
  const names = kinds.map(([, name]) => name);
  const traces = lines(state.rows, (row) => [[names, values(row)]], legend, "%{text}<br>%{x}: %{y:.3f}<extra></extra>", (row) => ({ mode: "lines+markers", marker: { color: style(row).colour, symbol: style(row).symbol, size: style(row).size - 1 } }));
  draw("by-size", traces, { ...legend.layout, xaxis: { type: "category", categoryorder: "array", categoryarray: names, range: [-0.2, 2.2] }, yaxis: { title: { text: `AR@${budget}` }, rangemode: "tozero" } }, "AR by object size");
}

function drawLearning() {
  const key = byId("curve-of").value;
  const axis = byId("learning-axis").value;
  const legend = legendFor(state.rows.filter((row) => row.learning.some((run) => run[key])));
  const runs = (row) => row.learning.map((run, at) => [run[key]?.[axis], run[key]?.y, `, seed ${row.seeds[at]}`]).filter(([x]) => x);
  const traces = lines(state.rows, runs, legend, `%{text}<br>${axis} %{x:.4~g}: %{y:.4f}<extra></extra>`, (row, x) => ({ mode: x.length < 15 ? "lines+markers" : "lines", marker: { size: 5, color: style(row).colour, symbol: style(row).symbol } }));
  draw("curves", traces, { ...legend.layout, xaxis: { title: { text: axis === "epoch" ? "epoch" : "optimizer step" }, rangemode: "tozero" }, yaxis: { title: { text: plain(key) } } }, "Learning curves");
  byId("learning-caption").textContent = "One line a run, each point the mean of its stretch; epoch 1 ends the first one." + (state.table.detailed ? ` Curves and pictures are those of the ${state.table.detailed} best rows.` : "");
}

/* ---------------------------------------------------------------------------------------------- A against B */

function pick(side, index) {
  state[side] = index;
  remember();
  markPicks();
  drawCharts();
  drawPair();
}

function markPicks() {
  for (const side of ["a", "b"]) {
    byId(side).value = state[side];
    for (const input of document.querySelectorAll(`input.pick-${side}`)) input.checked = Number(input.closest("tr").dataset.row) === state[side];
  }
}

function drawPair() {
  const [a, b] = [state.table.rows[state.a], state.table.rows[state.b]];
  const heads = (first, kind, last) => element("thead", {}, element("tr", {}, element("th", { class: "text" }, first), ["A", "B"].map((side) => element("th", { class: kind }, element("span", { class: side.toLowerCase() }, side))), last ? element("th", {}, last) : null));
  const metrics = Object.entries(state.table.metrics).filter(([key]) => a.metrics[key] && b.metrics[key] && a.metrics[key][0] >= 0 && (key === content.metric || /_(10|100|1000)$/.test(key)));
  fill("pair-metrics", heads("metric", null, "A − B"), element("tbody", {}, metrics.map(([key, name]) => {
    const difference = a.metrics[key][0] - b.metrics[key][0];
    return element("tr", {}, element("th", { class: "text", scope: "row" }, name), element("td", {}, withSpread(a.metrics[key])), element("td", {}, withSpread(b.metrics[key])), element("td", { class: difference > 0 ? "more" : difference < 0 ? "less" : null }, signed(difference)));
  })));
  const keys = [...new Set([...Object.keys(a.settings), ...Object.keys(b.settings)])].filter((key) => a.settings[key] !== b.settings[key]);
  const rows = keys.map((key) => element("tr", { class: a.counting.includes(key) || b.counting.includes(key) ? null : "aside" }, element("th", { class: "text", scope: "row" }, key), element("td", { class: "name" }, a.settings[key] ?? "–"), element("td", { class: "name" }, b.settings[key] ?? "–")));
  const about = [["run", (row) => row.name], ["folder", (row) => row.runs.map((run) => run.folder).join("\n")], ["seeds", (row) => row.seeds.join(", ")], ["commit", (row) => [...new Set(row.runs.map((run) => run.commit))].join(", ")], ["epochs", (row) => [...new Set(row.runs.map((run) => run.epoch))].join(", ")]]
    .filter(([, read]) => read(a) !== read(b)).map(([name, read]) => element("tr", { class: "aside" }, element("th", { class: "text", scope: "row" }, name), element("td", { class: "name" }, read(a)), element("td", { class: "name" }, read(b))));
  fill("pair-settings", heads("setting", "text"), element("tbody", {}, rows.length || about.length ? [...rows, ...about] : element("tr", {}, element("td", { class: "text", colspan: 3 }, "A and B are the same run."))));
  drawDiagnosis(a, b);
  drawGallery(a, b);
}

/* From the anchors.json of both: AR after each stage, and every shape with what it did. */
function drawDiagnosis(a, b) {
  const sides = [["A", a, css("--a"), "circle"], ["B", b, css("--b"), "diamond"]].filter(([, row]) => row.diagnosis);
  byId("diagnosis").hidden = sides.length === 0;
  if (!sides.length) return;
  const stages = [...new Set(sides.flatMap(([, row]) => row.diagnosis.funnel.map((one) => one.stage)))];
  const traces = sides.flatMap(([side, row, colour, symbol]) => [["AR", "solid", "AR"], ["recall_50", "dot", "IoU 0.5"]].map(([key, dash, name]) => ({
    type: "scatter", mode: "lines+markers", name: `${side}: ${name}`, x: row.diagnosis.funnel.map((one) => plain(one.stage)), y: row.diagnosis.funnel.map((one) => one[key]), line: { color: colour, width: key === "AR" ? 2.6 : 1.6, dash }, marker: { color: colour, size: 8, symbol }, hovertemplate: `${side}, ${name}<br>%{x}: %{y:.3f}<extra></extra>` })));
  draw("funnel", traces, { showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, itemclick: false, itemdoubleclick: false }, xaxis: { type: "category", categoryorder: "array", categoryarray: stages.map(plain) }, yaxis: { title: { text: "share of the boxes" }, rangemode: "tozero" } }, "Share of the boxes that are still found after each stage");
  fill("shapes", sides.map(([side, row]) => shapesTable(side, row.diagnosis)));
  const budgets = [...new Set(sides.map(([, row]) => `${row.diagnosis.images} validation images, ${row.diagnosis.budget} proposals each`))];
  byId("diagnosis-note").textContent = `First seed of each, ${budgets.join("; ")}. One box may be shared by two objects here, so the last stage lies a little above recall. Shares are of all shapes together; AR lost is what the same network loses when the shape is taken out, without training anew.`;
}

function shapesTable(side, diagnosis) {
  const heads = ["positives", "proposals", "matched"];
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  const rows = diagnosis.shapes.map((one) => element("tr", {}, element("th", { class: "text", scope: "row" }, `${number(one.width, 0)} × ${number(one.height, 0)}`, element("span", { class: "small" }, ` stride ${one.stride}${one.matched === 0 ? ", dead" : ""}`)), heads.map((key) => element("td", {}, percent(one[key]))), element("td", {}, share(diagnosis.AR - one.AR_without))));
  return element("div", { class: "scroll shapes", role: "region", "aria-label": `anchors of ${side}`, tabindex: 0 }, element("table", {}, element("thead", {}, element("tr", {}, element("th", { class: "text" }, element("span", { class: side.toLowerCase() }, side), " width × height"), heads.map((head) => element("th", {}, head)), element("th", {}, "AR lost"))), element("tbody", {}, rows)));
}

/* What A and B found of an image, and whether the choice wants to see it; their boxes are the same, in one order. */
const SHOWN = {
  all: ["all images", () => true],
  onlyA: ["A found, B missed", (a, b) => a && !b],
  onlyB: ["B found, A missed", (a, b) => b && !a],
  either: ["found by one of them", (a, b) => a !== b],
  neither: ["missed by both", (a, b) => !a && !b],
};

function drawGallery(a, b) {
  const best = Number(byId("best").value);
  const kind = byId("shown-images").value;
  const pairs = a.scenes.map((scene) => [scene, b.scenes.find((other) => other.image === scene.image)]).filter(([, other]) => other);
  byId("gallery-count").textContent = "";
  if (!pairs.length) {
    fill("gallery", element("p", { class: "hint" }, "A and B kept no image in common: training keeps a few in proposals.npz (callbacks.pictures.images), and compare.py shows them (gallery)."));
    return;
  }
  const meant = ([one, other]) => one.rank.map((rank, at) => SHOWN[kind][1](rank < best, other.rank[at] < best));
  const kept = pairs.map((pair) => [pair, meant(pair)]).filter(([, boxes]) => kind === "all" || boxes.includes(true));
  const boxes = kept.flatMap(([, flags]) => flags).filter(Boolean).length;
  byId("gallery-count").textContent = kind === "all" ? `${pairs.length} images` : `${boxes} boxes in ${kept.length} of ${pairs.length} images`;
  if (!kept.length) {
    fill("gallery", element("p", { class: "hint" }, `No image has a box that is ${SHOWN[kind][0].replace("A found, B missed", "found by A alone").replace("B found, A missed", "found by B alone")} among the best ${best} proposals.`));
    return;
  }
  fill("gallery", element("div", { class: "shots" }, kept.map(([[one, other], flags]) => element("div", { class: "shot" }, element("h4", {}, content.images[one.image].name), element("div", { class: "pair" }, [["A", "a", one], ["B", "b", other]].map(([name, side, scene]) => {
    const found = scene.rank.filter((rank) => rank < best).length;
    const caption = `${found} of ${scene.boxes.length} found by the best ${Math.min(best, scene.proposals.length)}`;
    return element("div", {}, picture(content.images[scene.image], scene, best, `${name}: ${caption}`, kind === "all" ? [] : flags), element("p", {}, element("b", { class: side }, name + " "), caption));
  }))))));
}

function picture(image, scene, best, label, flags) {
  const size = { width: image.width, height: image.height };
  const box = ([x1, y1, x2, y2], kind) => element("svg:rect", { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1), class: kind });
  const hits = new Set(scene.rank.filter((rank) => rank < best));
  const others = byId("unmatched").checked ? scene.proposals.slice(0, best).filter((_, at) => !hits.has(at)) : [];
  const missed = scene.boxes.filter((_, at) => scene.rank[at] >= best);
  const meant = scene.boxes.filter((_, at) => flags[at]);
  return element("svg:svg", { viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": label }, element("svg:image", { href: image.source, ...size, preserveAspectRatio: "none" }), others.map((one) => box(one, "plain")),
    scene.boxes.filter((_, at) => scene.rank[at] < best).map((one) => box(one, "found")), [...hits].filter((at) => at < scene.proposals.length).map((at) => box(scene.proposals[at], "hit")), missed.map((one) => box(one, "halo")), missed.map((one) => box(one, "missed")), meant.map((one) => box(one, "meant")));
}

/* ------------------------------------------------------------------------------------------- notes and set-up */

function drawNotes() {
  const percent = number(100 * content.confidence, 2);
  const methods = [
    "recall@N is the share of boxes that an image's N best-scored proposals find at IoU 0.5, one to one, as pycocotools counts; AR@N is its mean over IoU 0.50:0.05:0.95.",
    `Intervals: ${percent} %, from ${content.resamples.toLocaleString("en")} resamples of the images, the same for both sides; where a side has several seeds they are resampled too, and the resamples are spread by Student's t for as few as there are.`,
    ...(state.table.rows?.some((row) => row.seeds.length > 1) ? ["± is the standard deviation over the seeds of a row; a row of one seed has none."] : []),
    ...(state.table.rows?.some((row) => row.status !== "finished") ? ["A run that has not finished stands by its last validation: below the finished ones, without a rank, and never the leader or, unasked, the baseline."] : []),
    "P(better) is the share of the resamples in which a run is ahead. The verdict is that of p after Holm's correction; “cannot tell” is no proof that two runs are alike.",
  ];
  const blocks = [element("ul", {}, [...methods, ...state.table.notes, ...content.notes].map((note) => element("li", {}, note)))];
  if (content.unscored.length) {
    blocks.push(element("h3", {}, "Runs without scores"), element("ul", {}, content.unscored.map((run) => element("li", {}, `${run.name}: ${run.status}, ${run.reason} (${run.folder})`))));
  }
  fill("notes", blocks);
  byId("footer").textContent = `AnchorLab ${content.version}, ${content.created.replace("T", " ").slice(0, 16)} UTC. Self-contained: nothing is loaded, nothing is sent.`;
}

function openTable(at) {
  const table = content.tables[at];
  state.table = table;
  table.rows.forEach((row, index) => Object.assign(row, { index, rank: row.status === "finished" ? index + 1 : null }));
  state.sort = { key: null, descending: true };
  state.shown = null;
  state.a = 0;
  state.b = Math.min(table.baseline ? table.baseline : 1, table.rows.length - 1);
  const statuses = [...new Set(table.rows.map((row) => row.status))].map((status) => `${table.rows.filter((row) => row.status === status).reduce((sum, row) => sum + row.runs.length, 0)} ${status}`);
  byId("about").textContent = `${table.data}: ${table.images.toLocaleString("en")} images, ${table.boxes.toLocaleString("en")} boxes; runs: ${statuses.join(", ")}`;
  recall(table);
  for (const side of ["a", "b"]) options(side, table.rows.map((row) => [row.index, placed(row) + row.label]), state[side]);
  const budgets = table.atBudgets.map((n) => [n, String(n)]);
  options("budget", budgets, 100);
  options("size-budget", budgets, 100);
  options("cost-axis", Object.entries(COSTS).filter(([, [, read]]) => column(table.rows, read).length).map(([key, [label]]) => [key, label]));
  const learned = new Set(table.rows.flatMap((row) => row.learning.flatMap(Object.keys)));
  const ofEpochs = table.rows.some((row) => row.learning.some((run) => Object.values(run).some((one) => one.epoch.some(isNumber))));
  options("learning-axis", [...(ofEpochs ? [["epoch", "epoch"]] : []), ["step", "step"]], ofEpochs ? "epoch" : "step");
  const swept = sweptOf();
  const important = table.importance?.settings.map((one) => one.key) ?? swept.map(([key]) => key);
  options("slice-of", swept, important[0]);
  options("heat-x", swept, important[0]);
  options("heat-y", swept, important[1] ?? swept[1]?.[0]);
  byId("settings").hidden = swept.length === 0;
  document.querySelector('nav a[href="#settings"]').hidden = swept.length === 0;
  options("curve-of", [...learned].map((key) => [key, key.replace("_", "@")]));
  byId("learning").hidden = learned.size === 0;
  drawNotes();
  drawChooser();
  select();
  drawPair();
}

/* What the address holds behind #: the section that a link leads to, then what is not as the page opens, so that the
 * address alone shows somebody else the same. Runs go by their ids: the page may be made again with more of them. */
function remember() {
  if (!state.table || remember.off) return;
  const table = state.table;
  const section = location.hash.slice(1).split("&")[0];
  const parts = {
    data: content.tables.length > 1 ? table.data : null,
    filter: byId("filter").value.trim(),
    sort: state.sort.key && (state.sort.descending ? "-" : "") + state.sort.key,
    columns: state.shown?.join(","),
    a: table.rows[state.a].runs[0].id,
    b: table.rows[state.b].runs[0].id,
    theme: state.theme,
  };
  const said = Object.entries(parts).filter(([, value]) => value).map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
  history.replaceState(null, "", `#${[section.includes("=") ? "" : section, ...said].filter(Boolean).join("&")}`);
}

const asked = () => Object.fromEntries(location.hash.slice(1).split("&").filter((part) => part.includes("=")).map((part) => [part.slice(0, part.indexOf("=")), decodeURIComponent(part.slice(part.indexOf("=") + 1))]));

/* Takes what the address holds; what this page does not know is left. */
function recall(table) {
  const { filter, sort, columns: chosen, ...picked } = recall.asked;
  byId("filter").value = filter ?? byId("filter").value;
  const keys = columns().map((one) => one.key);
  if (sort && keys.includes(sort.replace(/^-/, ""))) state.sort = { key: sort.replace(/^-/, ""), descending: sort.startsWith("-") };
  if (chosen) state.shown = chosen.split(",").filter((key) => keys.includes(key));
  for (const side of ["a", "b"]) {
    const index = table.rows.findIndex((row) => row.runs.some((run) => run.id === picked[side]));
    if (index >= 0) state[side] = index;
  }
  recall.asked = {};
}

function setTheme(theme) {
  state.theme = theme;
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "light" : "dark";
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
  byId("theme").setAttribute("aria-label", `${theme === "dark" ? "light" : "dark"} theme`);
  if (state.table) {
    drawCharts();
    drawPair();
    remember();
  }
}

function remembered() {
  try {
    return localStorage.getItem("anchorlab-theme");
  } catch {
    return null; // some browsers refuse storage to pages from a file
  }
}

function start() {
  recall.asked = asked();
  setTheme({ light: "light", dark: "dark" }[recall.asked.theme] ?? remembered() ?? (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  byId("answer").textContent = content.answer + ".";
  byId("theme").addEventListener("click", () => {
    setTheme(state.theme === "dark" ? "light" : "dark");
    try {
      localStorage.setItem("anchorlab-theme", state.theme);
    } catch {
      // it lasts as long as the page then
    }
  });
  if (!content.tables.length) {
    for (const section of document.querySelectorAll("main section:not(#summary):not(#methods), nav")) section.hidden = true;
    state.table = { notes: [] };
    drawNotes();
    state.table = null;
    return;
  }
  options("data", content.tables.map((table, at) => [at, table.data]));
  byId("data-choice").hidden = content.tables.length < 2;
  byId("data").addEventListener("change", (event) => openTable(Number(event.target.value)));
  byId("filter").addEventListener("input", select);
  for (const [id, redraw] of [["curve", drawBudgets], ["budget", drawThresholds], ["cost-axis", drawPareto], ["size-budget", drawSizes], ["curve-of", drawLearning], ["learning-axis", drawLearning], ["slice-of", drawSlice], ["heat-x", drawHeat], ["heat-y", drawHeat], ["best", drawPair], ["unmatched", drawPair], ["shown-images", drawPair]]) byId(id).addEventListener("change", redraw);
  for (const side of ["a", "b"]) byId(side).addEventListener("change", (event) => pick(side, Number(event.target.value)));
  byId("csv").addEventListener("click", saveCsv);
  byId("turn").addEventListener("click", () => {
    [byId("heat-x").value, byId("heat-y").value] = [byId("heat-y").value, byId("heat-x").value];
    drawHeat();
  });
  options("shown-images", Object.entries(SHOWN).map(([key, [text]]) => [key, text]));
  window.addEventListener("hashchange", remember); // a link to a section has replaced what stood there
  byId("swap").addEventListener("click", () => {
    [state.a, state.b] = [state.b, state.a];
    pick("a", state.a);
  });
  window.addEventListener("beforeprint", () => Object.keys(CHARTS).forEach(refresh));
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (state.table && width !== window.innerWidth) drawCharts();
    width = window.innerWidth;
  });
  const first = Math.max(0, content.tables.findIndex((table) => table.data === recall.asked.data));
  byId("data").value = first;
  const section = location.hash.slice(1).split("&")[0];
  openTable(first);
  if (section && !section.includes("=")) byId(section)?.scrollIntoView();
}

start();
