"use strict";
// The explorer: everything it shows comes from one JSON object given to render(data). The static
// page calls it once; a live page may call it again with newer data, and limits, selection and
// sort order stay. Text from the data reaches the document through textContent only.

const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000"]; // Okabe & Ito
const SYMBOLS = [["circle", "●"], ["square", "■"], ["diamond", "◆"], ["triangle-up", "▲"], ["cross", "✚"], ["x", "✖"], ["star", "★"]];
const PICKS = [{ colour: "#16232f", dash: "solid", mark: "a" }, { colour: "#b3367a", dash: "dash", mark: "b" }];
const GREY = "#cfd6dc";
const WIDE = 20; // a positive quantity that spans more than this factor gets a logarithmic scale
const FONT = { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif", size: 12.5, color: "#16232f" };
const CONFIG = { displaylogo: false, showSendToCloud: false, responsive: true, displayModeBar: false };
const LABELS = {
  latency_ms: "latency (ms)", params: "parameters", flops: "FLOPs", memory_mb: "memory (MB)", step_ms: "training step (ms)",
  val_loss: "validation loss", auc: "AUC", f1: "F1", r2: "R²", rmse: "RMSE", mae: "MAE", balanced_accuracy: "balanced accuracy",
};
const REASONS = {
  halving: "behind others at the same amount of training", nan: "loss, gradient or activation was not a number",
  exploding: "gradients grew without bound", vanishing: "gradients shrank to nothing", oom: "ran out of memory",
  infeasible: "outside a limit before training", timeout: "over the time limit of a candidate",
  duplicate: "same configuration as an earlier one", error: "an error was raised", lost: "its worker was lost",
  interrupted: "the search was stopped",
};

const view = { data: null, byNumber: new Map(), ranked: [], limits: [], feasible: [], front: [], picks: [], sort: { key: null, down: false }, pending: null };

const $ = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined).map((child) => child instanceof Node ? child : String(child)));
  return node;
}
const fill = (id, ...children) => $(id).replaceChildren(...children.flat());

// ---- numbers and names ----------------------------------------------------------------------

const known = (value) => typeof value === "number" && Number.isFinite(value);
const label = (metric) => LABELS[metric] ?? metric.replaceAll("_", " ");
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
const plural = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
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
  view.front = paretoFront(view.feasible, [...first, ...objectives.filter((o) => o.metric !== quality.metric)]);
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
  return [el("label", { for: range.id }, `${label(limit.metric)} ${op === "<=" ? "≤" : "≥"}`, output), range];
}

// ---- plots ----------------------------------------------------------------------------------

const touch = matchMedia("(pointer: coarse)").matches; // there a drag scrolls the page
const webgl = (() => { try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; } })();

function axis(title, range) {
  const base = { title: { text: escaped(title), standoff: 8, font: { size: 13 } }, gridcolor: "#edf1f4", zeroline: false, linecolor: "#c4ced7", ticks: "outside", tickcolor: "#c4ced7", automargin: true };
  if (!range || !known(range.low)) return base;
  const { low, high, log } = range;
  const ends = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const pad = (ends[1] - ends[0]) * 0.05 || Math.abs(ends[0]) * 0.1 || 1;
  const big = high >= 1000 ? { tickformat: "~s" } : {};
  return { ...base, ...big, type: log ? "log" : "linear", dtick: !log ? undefined : high / low > 100 ? 1 : "D2", range: [ends[0] - pad, ends[1] + pad] };
}
const layout = (more) => ({
  font: FONT, margin: { l: 56, r: 16, t: 18, b: 44 }, paper_bgcolor: "#fff", plot_bgcolor: "#fff", showlegend: false, hovermode: "closest", dragmode: touch ? false : "zoom",
  hoverlabel: { bgcolor: "#fff", bordercolor: "#c4ced7", font: FONT, align: "left" }, uirevision: "kept", ...more,
});
const ends = (axis) => axis.type === "log" ? axis.range.map((value) => 10 ** value) : axis.range;

function hover(candidate) {
  const lines = [`<b>#${candidate.number} ${escaped(candidate.family)}</b>`];
  for (const metric of view.shown) if (known(candidate.metrics[metric])) lines.push(`${escaped(label(metric))} ${show(metric, candidate.metrics[metric])}`);
  return lines.join("<br>");
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
  const type = view.data.webgl && webgl ? "scattergl" : "scatter";
  const feasible = new Set(view.feasible);
  const small = view.data.webgl ? 4 : 7;
  const traces = [points(drawn.filter((c) => !feasible.has(c)), x, y, { color: GREY, size: small - 1 }, type)];
  for (const name of view.families) {
    const { colour, symbol } = family(name);
    const own = drawn.filter((c) => c.family === name && feasible.has(c));
    traces.push(points(own.filter((c) => !onFront.has(c)), x, y, { color: colour, symbol: symbol[0], size: small, opacity: 0.45 }, type));
    traces.push(points(own.filter((c) => onFront.has(c)), x, y, { color: colour, symbol: symbol[0], size: onFront.size > 150 ? 7 : 10, line: { color: "#16232f", width: 1 } }, "scatter"));
  }
  view.picks.forEach((number, i) => {
    const candidate = view.byNumber.get(number);
    if (candidate && known(x(candidate)) && known(y(candidate)))
      traces.push({ type: "scatter", mode: "markers", hoverinfo: "skip", x: [x(candidate)], y: [y(candidate)], marker: { symbol: "circle-open", size: 19, color: PICKS[i].colour, line: { width: 2.5 } } });
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
  const lines = view.data.baselines.filter((b) => known(b.metrics[metric])).sort((p, q) => p.metrics[metric] - q.metrics[metric]);
  return {
    shapes: lines.map((b) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: b.metrics[metric], y1: b.metrics[metric], layer: "below", line: { color: "#8a6d00", width: 1.3, dash: "dash" } })),
    annotations: lines.map((b, i) => ({
      xref: "paper", x: i % 2 ? 0.01 : 0.99, xanchor: i % 2 ? "left" : "right", y: onLog ? Math.log10(b.metrics[metric]) : b.metrics[metric],
      yanchor: i ? "bottom" : "top", showarrow: false, text: escaped(b.name), font: { size: 11.5, color: "#6b5500" }, bgcolor: "rgba(255,255,255,.6)", borderpad: 1,
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
    const traces = cloud((c) => c.metrics[metric], onFront);
    draw($("plots").children[i].firstChild, [traces[0], step, ...traces.slice(1)], layout({ xaxis, yaxis, ...baselineLines(yaxis.type === "log") }), clicked);
  });
  return undefined;
}

function draw(node, traces, shape, onClick) {
  const fresh = !node.data;
  if (fresh) node.replaceChildren();
  Plotly.react(node, traces, shape, CONFIG);
  if (fresh && onClick) node.on("plotly_click", onClick);
}

function drawProgress() {
  const { metric, direction } = view.data.quality;
  $("progress-title").textContent = `Best ${label(metric)} over time`;
  if (!view.complete.length) return fill("progress", el("p", { class: "empty" }, "No complete candidate yet."));
  const start = Math.min(...view.data.candidates.map((c) => c.started).filter((t) => t > 0));
  const last = Math.max(...view.complete.map((c) => c.started + c.seconds)) - start;
  const [unit, size] = last > 7200 ? ["h", 3600] : last > 120 ? ["min", 60] : ["s", 1];
  const x = (c) => (c.started + c.seconds - start) / size;
  const done = [...view.feasible].sort((p, q) => x(p) - x(q));
  const best = { x: [], y: [] };
  for (const c of done) {
    const value = c.metrics[metric], sofar = best.y.at(-1);
    if (sofar === undefined || (direction === "min" ? value < sofar : value > sofar)) { best.x.push(x(c)); best.y.push(value); }
  }
  if (best.x.length) { best.x.push(last / size); best.y.push(best.y.at(-1)); }
  const yaxis = qualityAxis();
  const line = { type: "scatter", mode: "lines", ...best, line: { shape: "hv", color: "#16232f", width: 1.8 }, hoverinfo: "skip" };
  const xaxis = { ...axis(`wall-clock time (${unit})`), rangemode: "tozero" };
  return draw($("progress"), [...cloud(x, new Set(view.front)), line], layout({ xaxis, yaxis, ...baselineLines(yaxis.type === "log") }), clicked);
}

// ---- tables ---------------------------------------------------------------------------------

const latencyText = (candidate) => {
  const { iqr_ms: spread, quiet } = candidate.latency ?? {};
  const median = show("latency_ms", candidate.metrics.latency_ms);
  const decimals = median.split(".")[1]?.length ?? 0;
  return median + (known(spread) ? ` ± ${(spread / 2).toFixed(decimals)}` : "") + (quiet === false ? " †" : "");
};

function columns() {
  const metricColumn = (metric) => ({ key: metric, name: label(metric), value: (c) => c.metrics[metric], text: (c) => metric === "latency_ms" ? latencyText(c) : show(metric, c.metrics[metric]) });
  return [
    { key: "number", name: "#", value: (c) => c.number, text: (c) => c.number ?? "" },
    { key: "family", name: "family", value: (c) => c.family, text: (c) => c.family, words: true },
    ...view.shown.map(metricColumn),
    { key: "epochs", name: "epochs", value: (c) => c.epochs, text: (c) => c.epochs ?? "–" },
    { key: "seconds", name: "time", value: (c) => c.seconds, text: (c) => duration(c.seconds) },
  ];
}

function drawFront() {
  $("front-size").textContent = view.complete.length ? `${plural(view.front.length, "candidate")} of ${plural(view.feasible.length, "feasible one")}` : "";
  const all = columns();
  const by = all.find((column) => column.key === view.sort.key);
  const rows = [...view.front]; // best quality first
  if (by) {
    const sign = view.sort.down ? -1 : 1;
    rows.sort((p, q) => {
      const [a, b] = [by.value(p), by.value(q)];
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
    });
  }
  const heading = (column) => el("th", { class: column.words ? null : "n", scope: "col", "aria-sort": by === column ? (view.sort.down ? "descending" : "ascending") : null },
    el("button", { type: "button", onclick: () => { view.sort = { key: column.key, down: by === column && !view.sort.down }; drawFront(); } },
      column.name, by === column ? (view.sort.down ? " ↓" : " ↑") : ""));
  const cells = (c) => all.map((column) => el("td", { class: column.words ? "wrap" : "n" }, column.text(c)));
  const frontRow = (c) => el("tr", {
    class: ["pick", PICKS[view.picks.indexOf(c.number)]?.mark ?? ""].join(" "), tabindex: 0, "data-number": c.number, "aria-selected": String(view.picks.includes(c.number)),
    onclick: () => pick(c.number), onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(c.number); } },
  }, cells(c));
  const nothing = view.complete.length ? "No candidate is inside these limits." : "No candidate is complete yet.";
  const focused = document.activeElement?.closest?.("#front tr")?.dataset.number;
  fill("front", el("table", {},
    el("thead", {}, el("tr", {}, all.map(heading))),
    el("tbody", { id: "front-rows" }, rows.length ? rows.map(frontRow) : el("tr", {}, el("td", { colspan: all.length, class: "empty" }, nothing))),
    el("tbody", { id: "baseline-rows" }, sortedBaselines().map((b) => el("tr", { class: "baseline" }, cells({ family: b.name, metrics: b.metrics, seconds: b.seconds }))))));
  if (focused) $("front").querySelector(`tr[data-number="${focused}"]`)?.focus();
  fill("front-note", [
    view.front.some((c) => known(c.latency?.iqr_ms)) ? "Latency: median ± half the interquartile range, one batch." : null,
    view.front.some((c) => c.latency?.quiet === false) ? "† measured while other work ran." : null,
    view.data.baselines.length ? "Shaded rows: simple models, trained outside the search." : null,
  ].filter(Boolean).join(" "));
}

// ---- the selected candidates ----------------------------------------------------------------

function pick(number) {
  const at = view.picks.indexOf(number);
  if (at >= 0) view.picks.splice(at, 1);
  else view.picks = [...view.picks, number].slice(-2);
  drawFront();
  drawSelection();
  requestAnimationFrame(() => { drawParetoPlots(); drawProgress(); }); // the panel need not wait for them
}

function drawSelection() {
  const chosen = view.picks.map((number) => view.byNumber.get(number)).filter(Boolean);
  fill("chosen", chosen.length
    ? chosen.map((c, i) => el("span", { class: `pill ${PICKS[i].mark}` }, `#${c.number} ${c.family} · ${c.state}${c.reason ? ` (${c.reason})` : ""}`,
      el("button", { type: "button", "aria-label": `Deselect candidate ${c.number}`, onclick: () => pick(c.number) }, "×")))
    : el("p", { class: "empty" }, "Nothing is selected."));
  for (const c of chosen) if (c.detail) $("chosen").append(el("pre", {}, c.detail));
  drawCurves(chosen);
  drawComparison(chosen);
  drawArchitectures(chosen);
}

function drawCurves(chosen) {
  const metric = view.data.quality.metric;
  const series = [["loss", "train loss"], ["val_loss", "validation loss"], [metric, `validation ${label(metric)}`]]
    .filter(([key], i, all) => all.findIndex((other) => other[0] === key) === i && chosen.some((c) => c.curve?.some((e) => known(e[key]))));
  const panels = [series.filter(([key]) => key !== metric), series.filter(([key]) => key === metric)].filter((panel) => panel.length);
  for (const node of $("curves").children) Plotly.purge(node);
  fill("curves", panels.map(() => el("div", { class: "curve" })));
  panels.forEach((panel, at) => {
    const traces = chosen.flatMap((c, i) => panel.filter(([key]) => c.curve?.some((e) => known(e[key]))).map(([key, name]) => ({
      type: "scatter", mode: "lines+markers", name: `#${c.number} ${escaped(name)}`, x: c.curve.map((e) => e.epoch), y: c.curve.map((e) => e[key] ?? null),
      line: { color: PICKS[i].colour, width: 1.8, dash: key === "val_loss" ? "dot" : "solid" }, marker: { size: 4 },
    })));
    const range = span(traces.flatMap((trace) => trace.y));
    const yaxis = { ...axis(panel.length > 1 ? "loss" : panel[0][1], range.log ? range : null), nticks: 5 };
    draw($("curves").children[at], traces, layout({
      margin: { l: 56, r: 12, t: 8, b: 40 }, hovermode: "x unified", xaxis: { ...axis("epoch"), title: { text: "epoch", standoff: 4, font: { size: 13 } } }, yaxis,
      showlegend: traces.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } },
    }));
  });
  if (chosen.length && !panels.length) fill("curves", el("p", { class: "fine" }, view.data.candidates.length > Object.keys(view.data.details).length
    ? "Curves, layers and gradients are kept for the front, the best others and a few of each failure; not for this candidate." : "No epoch was finished."));
}

function drawComparison(chosen) {
  if (!chosen.length) return fill("compare");
  const row = (name, texts, mark) => texts.every((text) => text === "–") ? null
    : el("tr", { class: mark && texts.length > 1 && texts[0] !== texts[1] ? "differs" : null }, el("td", { class: "wrap" }, name), texts.map((text) => el("td", { class: "wrap" }, text)));
  const head = (name) => el("tr", { class: "head" }, el("th", { colspan: chosen.length + 1, scope: "colgroup" }, name));
  const keys = (field) => [...new Set(chosen.flatMap((c) => Object.keys(c[field] ?? {})))];
  const metrics = [...view.shown, ...keys("metrics").filter((metric) => !view.shown.includes(metric))];
  const latency = (c) => c.latency ? [known(c.latency.batch) ? `batch ${c.latency.batch}` : "", known(c.latency.threads) ? plural(c.latency.threads, "thread") : "", c.latency.quiet ? "quiet device" : "beside other work"].filter(Boolean).join(", ") : "–";
  const costs = keys("cost").filter((key) => !metrics.includes(key) && chosen.some((c) => known(c.cost?.[key])));
  return fill("compare", el("table", {},
    el("thead", {}, el("tr", {}, el("th", {}, ""), chosen.map((c) => el("th", { scope: "col" }, `#${c.number}`)))),
    el("tbody", {},
      head("Result and cost"),
      metrics.map((metric) => row(label(metric), chosen.map((c) => metric === "latency_ms" ? latencyText(c) : show(metric, c.metrics[metric])))),
      row("latency measured with", chosen.map(latency)),
      costs.map((key) => row(label(key), chosen.map((c) => short(c.cost?.[key])))),
      row("epochs", chosen.map((c) => String(c.epochs))), row("time", chosen.map((c) => duration(c.seconds))),
      row("origin", chosen.map((c) => c.origin)), row("seed", chosen.map((c) => String(c.seed ?? "–"))),
      head("Configuration"),
      keys("config").sort().map((key) => row(key, chosen.map((c) => setting(c.config?.[key])), "mark differences")))));
}

function drawArchitectures(chosen) {
  const told = chosen.filter((c) => c.layers?.length || Object.keys(c.gradient_norms ?? {}).length);
  $("architectures").hidden = !told.length;
  fill("networks", told.map((c) => {
    const total = (c.layers ?? []).reduce((sum, layer) => sum + (layer.params || 0), 0);
    const norms = Object.entries(c.gradient_norms ?? {});
    const { low, high } = span(norms.map(([, norm]) => norm > 0 ? norm : null));
    const share = (norm) => norm > 0 ? `${10 + 90 * (high > low ? Math.log(norm / low) / Math.log(high / low) : 1)}%` : "0";
    const layer = (l) => el("tr", {}, el("td", { class: "wrap" }, el("code", {}, l.name)), el("td", {}, l.type), el("td", { class: "n" }, (l.output ?? []).join(" × ") || "–"), el("td", { class: "n" }, l.params ? l.params.toLocaleString("en") : "–"));
    return el("div", {},
      el("h3", {}, `#${c.number} ${c.family}`, el("small", {}, `${plural(c.layers?.length ?? 0, "layer")}, ${plural(total, "parameter")}`)),
      c.layers?.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "layer"), el("th", {}, "type"), el("th", { class: "n" }, "output shape"), el("th", { class: "n" }, "parameters"))), el("tbody", {}, c.layers.map(layer)))) : null,
      norms.length ? [el("h3", {}, "Gradient norms", el("small", {}, "last epoch, bars on a logarithmic scale")),
        el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, norms.map(([name, norm]) => el("tr", {}, el("td", { class: "wrap" }, el("code", {}, name)), el("td", { class: "n" }, known(norm) ? norm.toExponential(2) : "not finite"),
          el("td", { class: "gauge" }, el("span", { class: "bar", style: { width: known(norm) ? share(norm) : "0" } })))))))] : null);
  }));
}

// ---- what does not move with the limits -----------------------------------------------------

function drawHeader() {
  const { data } = view;
  $("name").textContent = data.name;
  document.title = `${data.name} · architecture search`;
  const reasons = {};
  for (const c of data.candidates) if (c.state === "failed" || c.state === "pruned") (reasons[c.state] ??= {})[c.reason] = (reasons[c.state][c.reason] ?? 0) + 1;
  const why = (state) => reasons[state] ? ` (${Object.entries(reasons[state]).sort((p, q) => q[1] - p[1]).map(([reason, n]) => `${reason || "no reason"} ${n}`).join(", ")})` : "";
  const counts = ["complete", "pruned", "failed", "running"].filter((state) => data.states[state] || state === "complete").map((state) => `${(data.states[state] ?? 0).toLocaleString("en")} ${state}${why(state)}`);
  $("counts").textContent = [plural(data.candidates.length, "candidate"), ...counts].join(" · ");
  $("spent").textContent = `${duration(data.seconds)} wall-clock · ${duration(data.candidates.reduce((sum, c) => sum + c.seconds, 0))} of training`;
}

function drawTiles() {
  const { data } = view, { metric, direction } = data.quality;
  const front = data.front.map((number) => view.byNumber.get(number));
  const tile = (name, value, unit, note) => el("div", { class: "tile" }, el("span", {}, name), el("b", {}, value, unit ? el("small", {}, ` ${unit}`) : null), el("span", {}, note));
  const tiles = [];
  if (front.length) {
    const best = front[0], sign = direction === "min" ? -1 : 1;
    tiles.push(tile(`Best ${label(metric)}`, show(metric, best.metrics[metric]), "", `#${best.number} ${best.family}, inside the task's limits`));
    const simple = sortedBaselines()[0];
    if (known(simple?.metrics[metric])) {
      const gain = best.metrics[metric] - simple.metrics[metric];
      tiles.push(tile(sign * gain > 0 ? "Better than simple models" : "Not better than simple models", `${gain > 0 ? "+" : gain < 0 ? "−" : ""}${show(metric, Math.abs(gain))}`, label(metric), `against ${simple.name}, ${show(metric, simple.metrics[metric])}`));
    }
    for (const [cost, name, unit] of [["latency_ms", "Fastest on the front", "ms"], ["params", "Smallest on the front", "parameters"]]) {
      const least = front.filter((c) => known(c.metrics[cost])).sort((p, q) => p.metrics[cost] - q.metrics[cost])[0];
      if (least) tiles.push(tile(name, show(cost, least.metrics[cost]), unit, `#${least.number} ${least.family}, ${label(metric)} ${show(metric, least.metrics[metric])}`));
    }
  } else tiles.push(tile("Pareto front", "empty", "", view.complete.length ? "no complete candidate is inside the task's limits" : "no candidate is complete yet"));
  fill("tiles", tiles);
}

function drawFailures() {
  const groups = new Map();
  for (const c of view.data.candidates) {
    if (c.state !== "pruned" && c.state !== "failed") continue;
    const key = `${c.state} ${c.reason ?? ""}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(c);
  }
  if (!groups.size) return fill("failures", el("p", { class: "empty" }, "No candidate was stopped or failed."));
  const sorted = [...groups.values()].sort((p, q) => q.length - p.length);
  return fill("failures", el("table", {},
    el("thead", {}, el("tr", {}, ["reason", "", "latest"].map((name) => el("th", {}, name)))),
    el("tbody", {}, sorted.map((group) => el("tr", {},
      el("td", {}, el("b", {}, group[0].reason || group[0].state), ` · ${group[0].state}`, el("div", { class: "fine" }, REASONS[group[0].reason] ?? "")),
      el("td", { class: "gauge" }, group.length.toLocaleString("en"), el("span", { class: `bar ${group[0].state}`, style: { width: `${100 * group.length / sorted[0].length}%` } })),
      el("td", {}, group.slice(-3).reverse().map((c) => el("button", { type: "button", class: "number", "aria-label": `Select candidate ${c.number}`, onclick: () => pick(c.number) }, `#${c.number}`))))))));
}

function drawSpaces() {
  const { spaces, rules } = view.data;
  const reason = (id) => rules[id] ? el("span", { class: "rule", title: `${id}: ${rules[id][0]}` }, rules[id][0], " ", el("i", {}, `(${id}; ${rules[id][1]})`)) : el("span", { class: "rule" }, id);
  const when = (p) => Object.entries(p.when).map(([name, values]) => `${name} is ${values.map(setting).join(" or ")}`).join(", ");
  const blocks = Object.entries(spaces).map(([name, params], i) => el("details", { open: i === 0 && Object.keys(spaces).length < 3 ? "" : null },
    el("summary", {}, name, el("small", {}, plural(params.length, "parameter"))),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ["parameter", "range", "default", "why"].map((heading) => el("th", {}, heading)))),
      el("tbody", {}, params.map((p) => el("tr", {}, el("td", {}, el("code", {}, p.name), when(p) ? el("div", { class: "fine" }, `when ${when(p)}`) : null), el("td", {}, p.domain), el("td", {}, setting(p.default)), el("td", { class: "wrap" }, p.why.map(reason)))))))));
  fill("spaces", blocks.length ? blocks : el("p", { class: "empty" }, "Not recorded."));
}

function drawFacts() {
  const { profile, versions, notes, modality, device, objectives, constraints, unranked } = view.data;
  const list = (facts) => el("dl", {}, facts.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const count = (n) => n.toLocaleString("en");
  fill("profile", list([
    ["samples", `${count(profile.n_train)} train, ${count(profile.n_val)} validation, ${count(profile.n_test)} test`],
    ["inputs", Object.entries(profile.inputs).map(([name, shape]) => `${name} ${shape.join(" × ") || "scalar"}`).join(", ")],
    ["columns", profile.numeric + profile.categorical ? `${profile.numeric} numeric, ${profile.categorical} categorical; at most ${(100 * profile.missing).toFixed(1)} % missing in one` : ""],
    ["split", profile.split_method], ["split hash", profile.split && el("code", {}, profile.split)], ["data hash", profile.fingerprint && el("code", {}, profile.fingerprint)],
  ]), profile.targets.map((target) => [
    el("h3", {}, `Target ${target.name}`, el("small", {}, target.kind === "regression" ? `regression, mean ${setting(target.mean)}, standard deviation ${setting(target.std)}` : `${target.kind}, ${target.classes.length} classes, training samples of each`)),
    target.counts.length ? el("div", { class: "scroll", style: { maxHeight: "240px" } }, el("table", {}, el("tbody", {}, target.classes.map((name, i) => el("tr", {}, el("td", { class: "wrap" }, name), el("td", { class: "n" }, count(target.counts[i] ?? 0)),
      el("td", { class: "gauge" }, el("span", { class: "bar", style: { width: `${100 * (target.counts[i] ?? 0) / Math.max(...target.counts, 1)}%` } }))))))) : null,
  ]).flat().filter(Boolean));
  fill("about", list([
    ["modality", modality], ["device", device], ["objectives", objectives.map((o) => `${label(o.metric)} (${o.direction})`).join(", ")],
    ["limits", constraints.map((c) => `${label(c.metric)} ${c.op === "<=" ? "≤" : "≥"} ${show(c.metric, c.bound)}`).join(", ") || "none"],
    ["not ranked", unranked ? `${plural(unranked, "complete candidate")} without one of these metrics` : ""],
    ["versions", Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")],
  ]), notes.map((note) => el("p", { class: "fine" }, note)));
}

function drawControls() {
  fill("limits", view.ranked.length ? view.limits.map(limitSlider).flat() : el("p", { class: "fine" }, "Sliders appear with the first complete candidate."));
  $("reset").hidden = !view.ranked.length;
  $("reset").onclick = () => { for (const limit of view.limits) limit.bound = limit.task; drawControls(); explore(); };
  drawFamilies();
}

function drawFamilies() {
  fill("families", view.families.map((name) => el("li", {}, el("span", { style: { color: family(name).colour } }, family(name).symbol[1]), el("span", {}, name),
    el("span", {}, `${view.front.filter((c) => c.family === name).length} of ${view.complete.filter((c) => c.family === name).length}`))));
}

function explore() { // after limits have moved
  view.pending = null;
  applyLimits();
  $("feasible").textContent = view.complete.length ? `${view.feasible.length.toLocaleString("en")} of ${view.complete.length.toLocaleString("en")} complete candidates are inside, ${view.front.length} on the front.` : "";
  drawFamilies();
  drawParetoPlots();
  drawFront();
  drawProgress();
}

function render(data) {
  const first = !view.data;
  Object.assign(view, { data, byNumber: new Map(data.candidates.map((c) => [c.number, c])) });
  for (const c of data.candidates) Object.assign(c, { metrics: c.metrics ?? {}, seconds: c.seconds ?? 0, started: c.started ?? 0 }, data.details[c.number]);
  view.complete = data.candidates.filter((c) => c.state === "complete");
  view.families = [...new Set([...Object.keys(data.spaces), ...data.candidates.map((c) => c.family)])];
  const needed = [...data.objectives, ...data.constraints].map((o) => o.metric);
  view.ranked = view.complete.filter((c) => needed.every((metric) => known(c.metrics[metric])));
  const seen = new Set(view.complete.flatMap((c) => Object.keys(c.metrics)));
  const leading = [data.quality.metric, ...data.objectives.map((o) => o.metric)].filter((metric) => !data.costs.includes(metric));
  const qualities = [...new Set([...leading, ...seen])].filter((metric) => !data.costs.includes(metric));
  view.shown = [...qualities.slice(0, Math.max(3, leading.length)), ...data.costs.filter((metric) => seen.has(metric))];
  makeLimits();
  if (first && data.front.length) view.picks = [data.front[0]];
  drawHeader();
  drawTiles();
  applyLimits();
  drawControls();
  explore();
  drawSelection();
  drawFailures();
  drawSpaces();
  drawFacts();
}

render(JSON.parse($("data").textContent));
document.documentElement.dataset.ready = "yes";
