"use strict";
// The tables and texts of the explorer; explorer.js follows in the same script and holds the state.

// ---- tables ---------------------------------------------------------------------------------

const td = (kind, ...children) => el("td", { class: kind }, ...children);
const tr = (...cells) => el("tr", {}, ...cells);
const th = (name, kind = null) => el("th", { class: kind, scope: "col" }, name);
const table = (headings, rows) =>
  el("table", {}, headings.length ? el("thead", {}, tr(headings)) : null, el("tbody", {}, rows));
const scroll = (...children) => el("div", { class: "scroll" }, ...children);
const note = (text) => el("p", { class: "empty" }, text);
const bar = (fraction, kind = "") => el("span", { class: `bar ${kind}`, style: { width: `${100 * fraction}%` } });
const picker = (number) => el("button", {
  type: "button", class: "number", "aria-label": `Select candidate ${number}`, onclick: () => pick(number),
}, `#${number}`);

function latencyText(candidate) {
  const { iqr_ms: spread, isolated } = candidate.latency ?? {};
  const median = show("latency_ms", candidate.metrics.latency_ms);
  const decimals = median.split(".")[1]?.length ?? 0;
  return median + (known(spread) ? ` ± ${(spread / 2).toFixed(decimals)}` : "") + (isolated === false ? " †" : "");
}
const metricText = (c, metric) => metric === "latency_ms" ? latencyText(c) : show(metric, c.metrics[metric]);

function columns() {
  return [
    { key: "number", name: "#", value: (c) => c.number, text: (c) => c.number ?? "" },
    { key: "family", name: "family", value: (c) => c.family, text: (c) => c.family, words: true },
    ...view.shown.map((metric) =>
      ({ key: metric, name: label(metric), value: (c) => c.metrics[metric], text: (c) => metricText(c, metric) })),
    { key: "epochs", name: "epochs", value: (c) => c.epochs, text: (c) => c.epochs ?? "–" },
    { key: "seconds", name: "time", value: (c) => c.seconds, text: (c) => duration(c.seconds) },
  ];
}

function sortedFront(by) {
  if (!by) return view.front; // best quality first
  const sign = view.sort.down ? -1 : 1;
  return [...view.front].sort((p, q) => {
    const [a, b] = [by.value(p), by.value(q)];
    if (!known(a) && typeof a !== "string") return 1;
    if (!known(b) && typeof b !== "string") return -1;
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  });
}

function drawFront() {
  const all = columns(), by = all.find((column) => column.key === view.sort.key);
  const order = view.sort.down ? "descending" : "ascending";
  const heading = (column) => {
    const sort = () => { view.sort = { key: column.key, down: by === column && !view.sort.down }; drawFront(); };
    const arrow = by !== column ? "" : view.sort.down ? " ↓" : " ↑";
    const kind = column.words ? null : "n";
    return el("th", { class: kind, scope: "col", "aria-sort": by === column ? order : null },
      el("button", { type: "button", onclick: sort }, column.name, arrow));
  };
  const cells = (c) => all.map((column) => td(column.words ? "wrap" : "n", column.text(c)));
  const frontRow = (c) => {
    const picked = PICKS[view.picks.indexOf(c.number)]?.mark;
    const onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault(); // the space bar would scroll
      pick(c.number);
    };
    return el("tr", {
      class: `pick ${picked ?? ""}`, tabindex: 0, "data-number": c.number, "aria-selected": String(Boolean(picked)),
      onclick: () => pick(c.number), onkeydown,
    }, cells(c));
  };
  const simpleRow = (b) =>
    el("tr", { class: "baseline" }, cells({ family: b.name, metrics: b.metrics, seconds: b.seconds }));
  const nothing = view.complete.length ? "No candidate is inside these limits." : "No candidate is complete yet.";
  const rows = sortedFront(by).map(frontRow);
  const focused = document.activeElement?.closest?.("#front tr")?.dataset.number;
  fill("front", el("table", {},
    el("thead", {}, tr(all.map(heading))),
    el("tbody", { id: "front-rows" }, rows.length ? rows : tr(el("td", { colspan: all.length, class: "empty" }, nothing))),
    el("tbody", { id: "baseline-rows" }, sortedBaselines().map(simpleRow))));
  if (focused) $("front").querySelector(`tr[data-number="${focused}"]`)?.focus();
  $("front-size").textContent = view.complete.length
    ? `${plural(view.front.length, "candidate")} of ${plural(view.feasible.length, "feasible one")}${blanks()}` : "";
  fill("front-note", [
    view.front.some((c) => known(c.latency?.iqr_ms)) ? "Latency: ± half the interquartile range, one batch." : "",
    view.data.latency_on ? `Measured on ${view.front.find((c) => c.latency?.device)?.latency.device ?? view.data.latency_on}.` : "",
    view.front.some((c) => c.latency?.isolated === false) ? "† measured while other work ran." : "",
    view.front.some((c) => c.guess) ? "None is clearly better than a constant guess." : "",
    view.data.baselines.length ? "Shaded rows: simple models, trained outside the search." : "",
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
  const pill = (c, i) => el("span", { class: `pill ${PICKS[i].mark}` },
    `#${c.number} ${c.family} · ${c.state}${c.reason ? ` (${c.reason})` : ""}`,
    el("button", { type: "button", "aria-label": `Deselect candidate ${c.number}`, onclick: () => pick(c.number) }, "×"));
  const details = chosen.filter((c) => c.detail).map((c) => el("pre", {}, c.detail));
  fill("chosen", chosen.length ? [...chosen.map(pill), ...details] : note("Nothing is selected."));
  drawCurves(chosen);
  drawComparison(chosen);
  drawArchitectures(chosen);
}

function drawCurves(chosen) {
  const metric = view.data.quality.metric;
  const has = (c, key) => c.curve?.some((epoch) => known(epoch[key]));
  const names = { loss: "train loss", val_loss: "validation loss", [metric]: `validation ${label(metric)}` };
  const series = Object.keys(names).filter((key) => chosen.some((c) => has(c, key)));
  const panels = [series.filter((key) => key !== metric), series.filter((key) => key === metric)].filter((keys) => keys.length);
  for (const node of $("curves").children) Plotly.purge(node);
  fill("curves", panels.map(() => el("div", { class: "curve" })));
  panels.forEach((keys, at) => {
    const traces = chosen.flatMap((c, i) => keys.filter((key) => has(c, key)).map((key) => ({
      type: "scatter", mode: "lines+markers", name: `#${c.number} ${escaped(names[key])}`,
      x: c.curve.map((epoch) => epoch.epoch), y: c.curve.map((epoch) => epoch[key] ?? null),
      line: { color: PICKS[i].colour, width: 1.8, dash: key === "val_loss" ? "dot" : "solid" }, marker: { size: 4 },
    })));
    const range = span(traces.flatMap((trace) => trace.y));
    const yaxis = { ...axis(keys.length > 1 ? "loss" : names[keys[0]], range.log ? range : null), nticks: 5 };
    draw($("curves").children[at], traces, layout({
      xaxis: axis("epoch"), yaxis, margin: { l: 56, r: 12, t: 8, b: 40 }, hovermode: "x unified", showlegend: traces.length > 1,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5 } },
    }));
  });
  if (!chosen.length || panels.length) return;
  const left = chosen.some((c) => !view.data.details[c.number]);
  fill("curves", el("p", { class: "fine" }, left
    ? "The page keeps curves, layers and gradients of the front, the best others and some of each failure; not of this candidate."
    : "No epoch was finished."));
}

function latencySource({ latency }) {
  if (!latency) return "–";
  const batch = known(latency.batch) ? `batch ${latency.batch}` : "";
  const threads = known(latency.threads) ? plural(latency.threads, "thread") : "";
  return [batch, threads, latency.device ? `on ${latency.device}` : "", latency.isolated ? "other trainings held still" : "beside other work"].filter(Boolean).join(", ");
}

function drawComparison(chosen) {
  if (!chosen.length) return fill("compare");
  const row = (name, text, mark = false) => {
    const texts = chosen.map(text);
    if (texts.every((each) => each === "–")) return null;
    const differs = mark && texts.some((each) => each !== texts[0]);
    return el("tr", { class: differs ? "differs" : null }, td("wrap", name), texts.map((each) => td("wrap", each)));
  };
  const head = (name) => el("tr", { class: "head" }, el("th", { colspan: chosen.length + 1, scope: "colgroup" }, name));
  const keys = (field) => [...new Set(chosen.flatMap((c) => Object.keys(c[field] ?? {})))];
  const metrics = [...new Set([...view.shown, ...keys("metrics")])];
  const costs = keys("cost").filter((key) => !metrics.includes(key) && chosen.some((c) => known(c.cost?.[key])));
  return fill("compare", table(["", ...chosen.map((c) => `#${c.number}`)].map((name) => th(name)), [
    head("Result and cost"),
    metrics.map((metric) => row(label(metric), (c) => metricText(c, metric))),
    row("latency measured with", latencySource),
    costs.map((key) => row(label(key), (c) => short(c.cost?.[key]))),
    row("epochs", (c) => String(c.epochs)), row("time", (c) => duration(c.seconds)),
    keys("health").map((key) => row(label(key), (c) => setting(c.health?.[key]))),
    row("origin", (c) => c.origin), row("seed", (c) => String(c.seed ?? "–")),
    head("Configuration"),
    keys("config").sort().map((key) => row(key, (c) => setting(c.config?.[key]), true)),
  ].flat().filter(Boolean)));
}

function partsText(layers) { // stem, blocks, head: by the first part of the names
  const parts = new Map();
  for (const { name, params } of layers) {
    const part = name.split(".")[0];
    if (params) parts.set(part, (parts.get(part) ?? 0) + params);
  }
  return [...parts].map(([part, params]) => `${part} ${count(params)}`).join(", ");
}

function layerTable(layers) {
  const headings = [th("layer"), th("type"), th("output shape", "n"), th("parameters", "n")];
  return scroll(table(headings, layers.map((layer) => tr(
    td("wrap", el("code", {}, layer.name)), td(null, layer.type), td("n", (layer.output ?? []).join(" × ") || "–"),
    td("n", layer.params ? count(layer.params) : "–")))));
}

function gradientTable(norms) {
  const { low, high } = span(norms.map(([, norm]) => norm > 0 ? norm : null));
  // The smallest norm still shows a tenth of a bar; zero and "not finite" show none.
  const length = (norm) => !(norm > 0) ? 0 : 0.1 + 0.9 * (high > low ? Math.log(norm / low) / Math.log(high / low) : 1);
  return scroll(table([], norms.map(([name, norm]) => tr(
    td("wrap", el("code", {}, name)), td("n", known(norm) ? norm.toExponential(2) : "not finite"), td("gauge", bar(length(norm)))))));
}

function drawArchitectures(chosen) {
  const recorded = chosen.filter((c) => c.layers?.length || Object.keys(c.gradient_norms ?? {}).length);
  $("architectures").hidden = !recorded.length;
  fill("networks", recorded.map((c) => {
    const layers = c.layers ?? [], norms = Object.entries(c.gradient_norms ?? {});
    const size = `${plural(layers.length, "layer")}, ${plural(layers.reduce((sum, layer) => sum + (layer.params || 0), 0), "parameter")}`;
    return el("div", {},
      el("h3", {}, `#${c.number} ${c.family}`, el("small", {}, layers.length ? size : "layers were not recorded")),
      layers.length ? el("p", {}, `Parameters by part: ${partsText(layers)}`) : null,
      layers.length ? layerTable(layers) : null,
      norms.length ? el("h3", {}, "Gradient norms", el("small", {}, "last looked at, bars on a logarithmic scale")) : null,
      norms.length ? gradientTable(norms) : null);
  }));
}

// ---- what does not move with the limits -----------------------------------------------------

function stopped() { // the others by state and reason, the most frequent first
  const groups = new Map();
  for (const c of view.data.candidates) {
    if (c.state === "complete" || c.state === "running") continue;
    const key = `${c.state} ${c.reason ?? ""}`;
    if (!groups.has(key)) groups.set(key, { state: c.state, reason: c.reason, members: [] });
    groups.get(key).members.push(c);
  }
  return [...groups.values()].sort((p, q) => q.members.length - p.members.length);
}

function drawHeader() {
  const { data } = view, groups = stopped();
  $("name").textContent = data.name;
  document.title = `${data.name} · architecture search`;
  const part = (state) => {
    const why = groups.filter((group) => group.state === state && group.reason).map((group) => `${group.reason} ${count(group.members.length)}`);
    return `${count(data.states[state] ?? 0)} ${state}${why.length ? ` (${why.join(", ")})` : ""}`;
  };
  const states = ["complete", "pruned", "failed", "cut off", "running"].filter((state) => data.states[state] || state === "complete");
  $("counts").textContent = [plural(data.candidates.length, "candidate"), ...states.map(part)].join(" · ");
  const training = data.candidates.reduce((sum, c) => sum + c.seconds, 0);
  $("spent").textContent = `${duration(data.seconds)} wall-clock · ${duration(training)} of training`;
}

function drawFailures() {
  const { data } = view, groups = stopped();
  if (!groups.length) return fill("failures", note("No candidate was stopped, failed or was cut off."));
  const sentences = data.failures.map((text) => el("p", { class: "fine" }, text));
  return fill("failures", ...sentences, table(["reason", "", "latest"].map((name) => th(name)), groups.map(({ state, reason, members }) => tr(
    td(null, el("b", {}, reason ?? state), reason ? ` · ${state}` : "", el("div", { class: "fine" }, data.reasons[reason ?? state] ?? "")),
    td("gauge", count(members.length), bar(members.length / groups[0].members.length, state)),
    td(null, members.slice(-3).reverse().map((c) => picker(c.number)))))));
}

function drawTiles() {
  const { data } = view, { metric, direction } = data.quality;
  const front = data.front.map((number) => view.byNumber.get(number));
  const tile = (name, value, unit, remark) => el("div", { class: "tile" },
    el("span", {}, name), el("b", {}, value, el("small", {}, ` ${unit}`)), el("span", {}, remark));
  if (!front.length) {
    const why = view.complete.length ? "no complete candidate is inside the task's limits" : "no candidate is complete yet";
    return fill("tiles", tile("Pareto front", "empty", "", why));
  }
  const best = front[0].metrics[metric], simple = sortedBaselines()[0], level = simple?.metrics[metric];
  const tiles = [tile(`Best ${label(metric)}`, show(metric, best), "", `#${front[0].number} ${front[0].family}, inside the task's limits`)];
  if (known(level)) {
    // Networks are scored in single precision, so that equal figures differ in the eighth digit.
    const equal = Math.abs(best - level) <= 1e-6 * Math.abs(level), gap = equal ? 0 : best - level;
    const better = direction === "min" ? gap < 0 : gap > 0, sign = gap > 0 ? "+" : gap < 0 ? "−" : "";
    const verdict = equal ? "As good as simple models" : better ? "Better than simple models" : "Not better than simple models";
    tiles.push(tile(verdict, equal ? "0" : sign + show(metric, Math.abs(gap)),
      label(metric), `against ${simple.name}, ${show(metric, level)}`));
  }
  for (const [cost, name, unit] of [["latency_ms", "Fastest on the front", "ms"], ["params", "Smallest on the front", "parameters"]]) {
    const [least] = front.filter((c) => known(c.metrics[cost])).sort((p, q) => p.metrics[cost] - q.metrics[cost]);
    const remark = () => `#${least.number} ${least.family}, ${label(metric)} ${show(metric, least.metrics[metric])}`;
    if (least) tiles.push(tile(name, show(cost, least.metrics[cost]), unit, remark()));
  }
  return fill("tiles", tiles);
}

function drawRates() { // the range test of each family
  const tests = Object.entries(view.data.rate_tests).filter(([, test]) => test.rates);
  for (const node of $("rates").querySelectorAll(".curve")) Plotly.purge(node);
  $("tested").hidden = !tests.length;
  fill("rates", tests.map(([name, test]) => el("div", {}, el("h3", {}, name, el("small", {}, test.note ?? "")), el("div", { class: "curve" }))));
  tests.forEach(([name, { rates, losses, smooth, bounds }], at) => {
    const { colour } = family(name), base = { type: "scatter", x: rates, hovertemplate: "rate %{x:.2e}, loss %{y:.3f}<extra></extra>" };
    const low = Math.min(...smooth, ...losses.filter(known)), high = Math.max(...smooth), pad = 0.15 * (high - low) || 0.1;
    const band = { type: "rect", xref: "x", yref: "paper", layer: "below", line: { width: 0 }, y0: 0, y1: 1 };
    draw($("rates").querySelectorAll(".curve")[at], [
      { ...base, y: losses, mode: "markers", marker: { size: 4, color: colour, opacity: 0.45 } },
      { ...base, y: smooth, mode: "lines", line: { color: colour, width: 1.8 } },
    ], layout({
      xaxis: { ...axis("learning rate"), type: "log", dtick: 1, exponentformat: "power" },
      yaxis: { ...axis("loss"), range: [low - pad, high + pad], nticks: 5 },
      margin: { l: 56, r: 12, t: 8, b: 40 },
      shapes: [
        { ...band, x0: bounds.low, x1: bounds.high, fillcolor: colour, opacity: 0.12 },
        { ...band, type: "line", x0: bounds.default, x1: bounds.default, line: { width: 1.2, color: colour, dash: "dash" } },
      ],
    }));
  });
}

function drawSpaces() {
  const { spaces, rules } = view.data, only = Object.keys(spaces).length === 1;
  const reason = (id) => {
    const [statement, source] = rules[id] ?? [];
    const parts = statement ? [statement, " ", el("i", {}, `(${id}; ${source})`)] : [id];
    return el("span", { class: "rule" }, parts);
  };
  const condition = (p) => Object.entries(p.when).map(([name, values]) => `${name} is ${values.map(setting).join(" or ")}`).join(", ");
  const row = (p) => tr(
    td(null, el("code", {}, p.name), condition(p) ? el("div", { class: "fine" }, `when ${condition(p)}`) : null),
    td(null, p.domain), td(null, setting(p.default)), td("wrap", p.why.map(reason)));
  const headings = () => ["parameter", "range", "default", "why"].map((name) => th(name));
  const blocks = Object.entries(spaces).map(([name, params]) => el("details", { open: only ? "" : null },
    el("summary", {}, name, el("small", {}, plural(params.length, "parameter"))), scroll(table(headings(), params.map(row)))));
  fill("spaces", blocks.length ? blocks : note("Not recorded."));
}

function drawFacts() {
  const { profile, versions, notes, modality, device, objectives, constraints, unranked } = view.data;
  const list = (facts) => el("dl", {},
    facts.filter(([, fact]) => fact).flatMap(([name, fact]) => [el("dt", {}, name), el("dd", {}, fact)]));
  const hash = (text) => text && el("code", {}, text);
  const classes = ({ classes: names, counts }) => scroll(table([], names.map((name, i) => tr(
    td("wrap", name), td("n", count(counts[i] ?? 0)), td("gauge", bar((counts[i] ?? 0) / Math.max(...counts, 1)))))));
  const target = (t) => [
    el("h3", {}, `Target ${t.name}`, el("small", {}, t.kind === "regression"
      ? `regression, mean ${setting(t.mean)}, standard deviation ${setting(t.std)}`
      : `${t.kind}, ${t.classes.length} classes, training samples of each`)),
    ...t.counts.length ? [classes(t)] : [],
  ];
  fill("profile", list([
    ["samples", `${count(profile.n_train)} train, ${count(profile.n_val)} validation, ${count(profile.n_test)} test`],
    ["inputs", Object.entries(profile.inputs).map(([name, shape]) => `${name} ${shape.join(" × ") || "scalar"}`).join(", ")],
    ["columns", profile.numeric + profile.categorical ? `${profile.numeric} numeric, ${profile.categorical} categorical;`
      + ` at most ${(100 * profile.missing).toFixed(1)} % missing in one` : ""],
    ["split", profile.split_method], ["split hash", hash(profile.split)], ["data hash", hash(profile.fingerprint)],
  ]), profile.targets.flatMap(target));
  fill("about", list([
    ["modality", modality], ["device", device],
    ["objectives", objectives.map((o) => `${label(o.metric)} (${o.direction})`).join(", ")],
    ["limits", constraints.map((c) => `${label(c.metric)} ${sign(c.op)} ${show(c.metric, c.bound)}`).join(", ") || "none"],
    ["not ranked", unranked ? `${plural(unranked, "complete candidate")} without one of these metrics` : ""],
    ["versions", Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")],
  ]), notes.map((text) => el("p", { class: "fine" }, text)));
}
