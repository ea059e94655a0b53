"use strict";
// The explorer: everything it shows comes from one JSON object given to render(data). The static
// page calls it once; a live page may call it again with newer data, and limits, selection and
// sort order stay. Text from the data becomes text nodes, never markup. Tables are in panels.js.

const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000"]; // Okabe & Ito
const SYMBOLS = [ // in a plot, in a text
  ["circle", "●"], ["square", "■"], ["diamond", "◆"], ["triangle-up", "▲"], ["cross", "✚"], ["x", "✖"], ["star", "★"],
];
const PICKS = [{ colour: "#16232f", dash: "solid", mark: "a" }, { colour: "#b3367a", dash: "dash", mark: "b" }];
const GREY = "#cfd6dc", HOLLOW = "#7d8c99";
const WIDE = 20; // a positive quantity that spans more than this factor gets a logarithmic scale
const FONT = {
  family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif",
  size: 12.5, color: "#16232f",
};
const CONFIG = { displaylogo: false, showSendToCloud: false, responsive: true, displayModeBar: false };
const LABELS = {
  latency_ms: "latency (ms)", params: "parameters", flops: "FLOPs", memory_mb: "training memory (MiB)", inference_mb: "memory of a prediction (MiB)", step_ms: "training step (ms)",
  val_loss: "validation loss", auc: "AUC", f1: "F1", r2: "R²", rmse: "RMSE", mae: "MAE", balanced_accuracy: "balanced accuracy",
};

// What is shown now: the data, the limits as moved, what follows from them, and the user's choices.
const view = {
  data: null, byNumber: new Map(), complete: [], ranked: [], unmeasured: [], families: [], shown: [],
  limits: [], feasible: [], front: [], picks: [], sort: { key: null, down: false }, pending: null, webgl: false,
};

const $ = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined)); // strings become text
  return node;
}
const fill = (id, ...children) => $(id).replaceChildren(...children.flat());

// ---- numbers and names ----------------------------------------------------------------------

const known = (value) => typeof value === "number" && Number.isFinite(value);
const label = (metric) => metric === "latency_ms" && view.data?.latency_on
  ? `latency (ms) on ${view.data.latency_on}` : LABELS[metric] ?? metric.replaceAll("_", " ");
// plotly.js reads a little HTML in its texts; names from the data must not be read so.
const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function short(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return `${Number((value / unit).toPrecision(3))} ${letter}`;
  return size >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);
}
function show(metric, value) {
  if (!known(value)) return "–";
  if (view.data.costs.includes(metric) || Math.abs(value) >= 1000) return short(value);
  if (Math.abs(value) >= 10) return value.toPrecision(4);
  return Math.abs(value) >= 1e-3 || value === 0 ? value.toFixed(4) : value.toPrecision(2);
}
function setting(value) {
  if (typeof value === "boolean") return value ? "True" : "False"; // as in Python and in the ranges
  if (typeof value !== "number" || Number.isInteger(value)) return String(value ?? "–");
  return Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}
function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
const count = (n) => n.toLocaleString("en");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const unmeasured = () => `not measured${view.data.latency_on ? ` on ${view.data.latency_on}` : ""}`;
const blanks = () => view.unmeasured.length ? `; ${count(view.unmeasured.length)} ${unmeasured()}` : "";
const sign = (op) => op === "<=" ? "≤" : "≥";
function span(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (known(value)) { low = Math.min(low, value); high = Math.max(high, value); }
  return { low, high, log: low > 0 && high > WIDE * low };
}
const family = (name) => {
  const at = view.families.indexOf(name);
  return { colour: COLOURS[at % COLOURS.length], symbol: SYMBOLS[at % SYMBOLS.length] };
};

// ---- feasibility and front: the same definitions as nas.front -------------------------------

function paretoFront(candidates, objectives) {
  const rows = candidates.map((candidate) => ({
    candidate, costs: objectives.map((o) => (o.direction === "min" ? 1 : -1) * candidate.metrics[o.metric]),
  }));
  const compare = (p, q) => {
    for (let i = 0; i < p.costs.length; i++) if (p.costs[i] !== q.costs[i]) return p.costs[i] - q.costs[i];
    return 0;
  };
  // In lexicographic order a candidate can be dominated only by one that comes before it.
  const front = [];
  for (const row of rows.sort(compare)) {
    const dominated = front.some((other) => compare(other, row) !== 0 && other.costs.every((cost, i) => cost <= row.costs[i]));
    if (!dominated) front.push(row);
  }
  return front.map((row) => row.candidate);
}

function applyLimits() {
  const inside = (candidate) => view.limits.every(({ metric, op, bound }) =>
    bound === null || (op === "<=" ? candidate.metrics[metric] <= bound : candidate.metrics[metric] >= bound));
  view.feasible = view.ranked.filter(inside);
  const { objectives, quality } = view.data;
  const first = objectives.filter((o) => o.metric === quality.metric);
  const useful = view.feasible.filter((c) => !c.guess); // clearly better than a constant prediction
  view.front = paretoFront(useful.length ? useful : view.feasible, [...first, ...objectives.filter((o) => o.metric !== quality.metric)]);
}

function makeLimits() {
  const { objectives, constraints } = view.data;
  const wanted = [
    ...constraints.map((c) => ({ ...c })),
    ...objectives.map((o) => ({ metric: o.metric, op: o.direction === "min" ? "<=" : ">=", bound: null })),
  ];
  const before = new Map(view.limits.map((limit) => [limit.metric + limit.op, limit]));
  view.limits = [];
  for (const limit of wanted) {
    const key = limit.metric + limit.op;
    if (view.limits.some((other) => other.metric + other.op === key)) continue;
    limit.task = limit.bound;
    if (before.has(key)) limit.bound = before.get(key).bound;
    view.limits.push({ ...limit, ...span([...view.ranked.map((c) => c.metrics[limit.metric]), limit.task]) });
  }
}

function limitSlider(limit) {
  const { low, high, log, op } = limit;
  const STEPS = 200, loose = op === "<=" ? STEPS : 0;
  const at = (position) => log ? low * (high / low) ** (position / STEPS) : low + (high - low) * position / STEPS;
  const position = (bound) => bound === null ? loose
    : Math.round(STEPS * (log ? Math.log(bound / low) / Math.log(high / low) : (bound - low) / (high - low || 1)));
  const output = el("output");
  const say = () => { output.textContent = limit.bound === null ? "any" : show(limit.metric, limit.bound); };
  const range = el("input", {
    type: "range", min: 0, max: STEPS, id: `limit-${limit.metric}-${op}`, "data-metric": limit.metric,
    oninput: () => {
      const chosen = Number(range.value);
      limit.bound = chosen === loose ? null : Number(at(chosen).toPrecision(3));
      say();
      if (!view.pending) view.pending = requestAnimationFrame(explore); // moves in between are skipped
    },
  });
  range.value = position(limit.bound);
  say();
  return [el("label", { for: range.id }, `${label(limit.metric)} ${sign(op)}`, output), range];
}

// ---- plots ----------------------------------------------------------------------------------

const touch = matchMedia("(pointer: coarse)").matches; // there a drag scrolls the page
const hasWebgl = () => Boolean(document.createElement("canvas").getContext("webgl"));

function axis(title, range) {
  const base = {
    title: { text: escaped(title), standoff: 6, font: { size: 13 } }, gridcolor: "#edf1f4", zeroline: false,
    linecolor: "#c4ced7", ticks: "outside", tickcolor: "#c4ced7", automargin: true,
  };
  if (!range || !known(range.low)) return base;
  const { low, high, log } = range;
  const ends = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const pad = (ends[1] - ends[0]) * 0.05 || Math.abs(ends[0]) * 0.1 || 1;
  const big = high >= 1000 ? { tickformat: "~s" } : {};
  const logarithmic = log ? { type: "log", dtick: high / low > 100 ? 1 : "D2" } : {};
  return { ...base, ...big, ...logarithmic, range: [ends[0] - pad, ends[1] + pad] };
}
const layout = (more) => ({
  font: FONT, margin: { l: 56, r: 16, t: 18, b: 44 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
  showlegend: false, hovermode: "closest", dragmode: touch ? false : "zoom",
  hoverlabel: { bgcolor: "#fff", bordercolor: "#c4ced7", font: FONT, align: "left" }, uirevision: "kept", ...more,
});
const ends = (axis) => axis.type === "log" ? axis.range.map((value) => 10 ** value) : axis.range;

function hover(candidate) {
  const has = view.shown.filter((metric) => known(candidate.metrics[metric]));
  const lines = has.map((metric) => `${escaped(label(metric))} ${show(metric, candidate.metrics[metric])}`);
  return [`<b>#${candidate.number} ${escaped(candidate.family)}</b>`, ...lines].join("<br>");
}

function points(candidates, x, y, marker, type) {
  return {
    type, mode: "markers", x: candidates.map(x), y: candidates.map(y), marker, customdata: candidates.map((c) => c.number),
    text: candidates.map(hover), hovertemplate: "%{text}<extra></extra>",
  };
}

function clicked(event) {
  const number = event.points.map((point) => point.customdata).find((value) => value !== undefined);
  if (number !== undefined) pick(number);
}

// Traces common to every plot whose vertical axis is the quality.
function cloud(x, onFront) {
  const metric = view.data.quality.metric;
  const y = (candidate) => candidate.metrics[metric];
  const drawn = view.complete.filter((c) => known(y(c)) && known(x(c)));
  const type = view.webgl ? "scattergl" : "scatter";
  const feasible = new Set(view.feasible), blank = new Set(view.unmeasured);
  const small = view.data.webgl ? 4 : 7;
  const traces = [
    points(drawn.filter((c) => !feasible.has(c) && !blank.has(c)), x, y, { color: GREY, size: small - 1 }, type),
    points(drawn.filter((c) => blank.has(c)), x, y, { color: HOLLOW, symbol: "circle-open", size: small }, type),
  ];
  for (const name of view.families) {
    const { colour, symbol } = family(name);
    const own = drawn.filter((c) => c.family === name && feasible.has(c));
    const faint = { color: colour, symbol: symbol[0], size: small, opacity: 0.45 };
    const strong = { color: colour, symbol: symbol[0], size: onFront.size > 150 ? 7 : 10, line: { color: "#16232f", width: 1 } };
    traces.push(points(own.filter((c) => !onFront.has(c)), x, y, faint, type));
    traces.push(points(own.filter((c) => onFront.has(c)), x, y, strong, "scatter"));
  }
  view.picks.forEach((number, i) => {
    const candidate = view.byNumber.get(number);
    if (candidate?.state !== "complete" || !known(x(candidate)) || !known(y(candidate))) return;
    const ring = { symbol: "circle-open", size: 19, color: PICKS[i].colour, line: { width: 2.5 } };
    traces.push({ ...points([candidate], x, y, ring, "scatter"), hoverinfo: "skip", hovertemplate: null });
  });
  return traces;
}

// Those that have the quality, best first, then the others.
function sortedBaselines() {
  const { metric, direction } = view.data.quality, sign = direction === "min" ? 1 : -1;
  const rank = (b) => known(b.metrics[metric]) ? sign * b.metrics[metric] : Infinity;
  return [...view.data.baselines].sort((p, q) => rank(p) < rank(q) ? -1 : rank(p) > rank(q) ? 1 : 0);
}

// A dashed line and a label for each simple baseline, labels alternating between the two sides.
function baselineLines(onLog) {
  const metric = view.data.quality.metric;
  const lines = view.data.baselines.filter((b) => known(b.metrics[metric]))
    .sort((p, q) => p.metrics[metric] - q.metrics[metric]).map((b) => ({ name: b.name, level: b.metrics[metric] }));
  const line = { color: "#8a6d00", width: 1.3, dash: "dash" };
  return {
    shapes: lines.map(({ level }) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: level, y1: level, layer: "below", line })),
    annotations: lines.map(({ name, level }, i) => ({
      xref: "paper", x: i % 2 ? 0.01 : 0.99, xanchor: i % 2 ? "left" : "right", y: onLog ? Math.log10(level) : level,
      yanchor: i ? "bottom" : "top", text: escaped(name), showarrow: false, font: { size: 11.5, color: "#6b5500" },
    })),
  };
}

function qualityAxis() {
  const { metric, direction } = view.data.quality;
  const range = span([...view.complete.map((c) => c.metrics[metric]), ...view.data.baselines.map((b) => b.metrics[metric])]);
  // A score near 1 is read on a linear scale; an error over several decades is not.
  range.log = range.log && direction === "min";
  return axis(`${label(metric)} (${direction === "min" ? "lower" : "higher"} is better)`, range);
}

// The best quality to be had at or below (or above, for a maximised objective) each abscissa.
function staircase(front, metric, direction, farEnd) {
  const quality = view.data.quality, sign = direction === "min" ? 1 : -1, better = quality.direction === "min" ? -1 : 1;
  const sorted = front.filter((c) => known(c.metrics[metric])).sort((p, q) => sign * (p.metrics[metric] - q.metrics[metric]));
  const x = [], y = [];
  for (const c of sorted) {
    const value = c.metrics[quality.metric];
    if (!y.length || better * (value - y.at(-1)) > 0) { x.push(c.metrics[metric]); y.push(value); }
  }
  if (x.length) { x.push(farEnd); y.push(y.at(-1)); }
  return { type: "scatter", mode: "lines", x, y, line: { shape: "hv", color: "#16232f", width: 1.4 }, hoverinfo: "skip" };
}

function drawParetoPlots() {
  const { objectives, quality } = view.data;
  const wanted = new Set([...objectives.map((o) => o.metric), "latency_ms", "params"]);
  wanted.delete(quality.metric);
  const metrics = [...wanted].filter((metric) => view.complete.some((c) => known(c.metrics[metric])));
  if (!metrics.length) return fill("plots", el("p", { class: "card empty" }, "No complete candidate yet: there is nothing to plot."));
  if ([...$("plots").children].map((card) => card.dataset.metric).join() !== metrics.join())
    fill("plots", metrics.map((metric) => el("div", { class: "card", "data-metric": metric }, el("div", { class: "plot" }))));
  const onFront = new Set(view.front);
  metrics.forEach((metric, i) => {
    const direction = objectives.find((o) => o.metric === metric)?.direction ?? "min";
    const xaxis = axis(label(metric), span(view.complete.map((c) => c.metrics[metric]))), yaxis = qualityAxis();
    const step = staircase(view.front, metric, direction, ends(xaxis)[direction === "min" ? 1 : 0]);
    const [outside, ...others] = cloud((c) => c.metrics[metric], onFront);
    const shape = layout({ xaxis, yaxis, ...baselineLines(yaxis.type === "log") });
    draw($("plots").children[i].firstChild, [outside, step, ...others], shape, clicked);
  });
  return undefined;
}

function draw(node, traces, shape, onClick) {
  const fresh = !node.data;
  if (fresh) node.replaceChildren();
  Plotly.react(node, traces, shape, CONFIG);
  if (fresh && onClick) node.on("plotly_click", onClick);
}

// How long the search had trained when a candidate ended: pauses until it was resumed are left out.
function clock(candidates) {
  const spans = [];
  for (const c of candidates.filter((c) => c.started > 0).sort((p, q) => p.started - q.started)) {
    const open = spans.at(-1), end = c.started + c.seconds;
    if (open && c.started <= open[1]) open[1] = Math.max(open[1], end);
    else spans.push([c.started, end]);
  }
  return (c) => spans.reduce((sum, [begin, end]) => sum + Math.max(0, Math.min(c.started + c.seconds, end) - begin), 0);
}

function drawProgress() {
  const { metric, direction } = view.data.quality;
  $("progress-title").textContent = `Best ${label(metric)} over time`;
  if (!view.complete.length) return fill("progress", el("p", { class: "empty" }, "No complete candidate yet."));
  const trained = clock(view.data.candidates);
  const last = Math.max(...view.complete.map(trained));
  const [unit, size] = last > 7200 ? ["h", 3600] : last > 120 ? ["min", 60] : ["s", 1];
  const x = (c) => trained(c) / size;
  const done = [...view.feasible].sort((p, q) => x(p) - x(q));
  const best = { x: [], y: [] };
  for (const c of done) {
    const value = c.metrics[metric], sofar = best.y.at(-1);
    if (sofar === undefined || (direction === "min" ? value < sofar : value > sofar)) { best.x.push(x(c)); best.y.push(value); }
  }
  if (best.x.length) { best.x.push(last / size); best.y.push(best.y.at(-1)); }
  const yaxis = qualityAxis();
  const line = { type: "scatter", mode: "lines", ...best, line: { shape: "hv", color: "#16232f", width: 1.8 }, hoverinfo: "skip" };
  const xaxis = { ...axis(`time of training, pauses left out (${unit})`), rangemode: "tozero" };
  const shape = layout({ xaxis, yaxis, ...baselineLines(yaxis.type === "log") });
  return draw($("progress"), [...cloud(x, new Set(view.front)), line], shape, clicked);
}

// ---- the page -------------------------------------------------------------------------------

function drawControls() {
  fill("limits", view.ranked.length ? view.limits.flatMap(limitSlider)
    : el("p", { class: "fine" }, "Sliders appear with the first complete candidate."));
  $("unmeasured").hidden = !view.unmeasured.length;
  $("unmeasured").lastChild.textContent = unmeasured();
  $("reset").hidden = !view.ranked.length;
  $("reset").onclick = () => { for (const limit of view.limits) limit.bound = limit.task; drawControls(); explore(); };
}

function drawFamilies() {
  const number = (candidates, name) => candidates.filter((c) => c.family === name).length;
  fill("families", view.families.map((name) => el("li", {},
    el("span", { style: { color: family(name).colour } }, family(name).symbol[1]), el("span", {}, name),
    el("span", {}, `${count(number(view.front, name))} of ${count(number(view.complete, name))}`))));
}

function explore() { // after the limits have moved
  view.pending = null;
  applyLimits();
  const kind = view.unmeasured.length ? "measured" : "complete";
  $("feasible").textContent = !view.complete.length ? ""
    : `${count(view.feasible.length)} of ${plural(view.ranked.length, `${kind} candidate`)} inside,`
      + ` ${count(view.front.length)} on the front${blanks()}.`;
  drawFamilies();
  drawFront();
  drawParetoPlots();
  drawProgress();
}

function render(data) {
  const first = !view.data;
  const isQuality = (metric) => !data.costs.includes(metric);
  for (const c of data.candidates) Object.assign(c, { metrics: c.metrics ?? {}, seconds: c.seconds ?? 0, ...data.details[c.number] });
  view.webgl = data.webgl && (view.webgl || hasWebgl());
  Object.assign(view, { data, byNumber: new Map(data.candidates.map((c) => [c.number, c])) });
  view.complete = data.candidates.filter((c) => c.state === "complete");
  view.families = [...new Set([...Object.keys(data.spaces), ...data.candidates.map((c) => c.family)])];
  const needed = [...data.objectives, ...data.constraints].map((o) => o.metric);
  view.ranked = view.complete.filter((c) => needed.every((metric) => known(c.metrics[metric])));
  const ranked = new Set(view.ranked);
  view.unmeasured = view.complete.filter((c) => !ranked.has(c));
  // Columns: the qualities among the objectives, up to three qualities in all, then the costs.
  const seen = new Set(view.complete.flatMap((c) => Object.keys(c.metrics)));
  const leading = [data.quality.metric, ...data.objectives.map((o) => o.metric)].filter(isQuality);
  const qualities = [...new Set([...leading, ...[...seen].filter(isQuality)])];
  view.shown = [...qualities.slice(0, Math.max(3, new Set(leading).size)), ...data.costs.filter((metric) => seen.has(metric))];
  if (first && data.front.length) view.picks = [data.front[0]];
  makeLimits();
  drawHeader();
  drawTiles();
  drawControls();
  explore();
  drawSelection();
  drawFailures();
  drawRates();
  drawSpaces();
  drawFacts();
}

render(JSON.parse($("data").textContent));
document.documentElement.dataset.ready = "yes";
