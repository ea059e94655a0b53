// The page "Why": what decides the quality, how the search went, and what failed.

function drawWhy(what) {
  const own = study();
  drawProgress(own);
  drawChance(own);
  drawParallel(own);
  drawSlices(own);
  drawImportance(own);
  drawFailures(own);
  if (what.has("data") || what.has("page") || what.has("theme")) {
    drawRates(own);
    drawSpaces(own);
    drawFacts(own);
  }
}

// Draws in a node only where what it follows from has changed.
function drawnFor(node, key, call) {
  const full = JSON.stringify([key, isDark()]);
  if (node.drawnFor === full) return;
  node.drawnFor = full;
  call();
}

// Shows a note in place of what is drawn there.
function blank(id, content) {
  const node = $(id);
  node.drawnFor = null;
  purge(node);
  fill(node, content);
}

function plain(id) { // the node of an ordinary plot within a section
  const node = $(id);
  if (!node.firstChild?.classList?.contains("plot-plain")) { purge(node); fill(node, el("div", { class: "plot-plain" })); }
  return node.firstChild;
}

function drawProgress(own) {
  const { metric, direction } = own.head.quality, { feasible } = current();
  say($("progress-title"), `Best ${label(metric)} over time`);
  if (!own.facts.complete.length) return blank("progress", note("No complete candidate yet."));
  return drawnFor($("progress"), [own.id, own.revision, explored.key], () => {
    const trained = clock(own.list), last = Math.max(...own.facts.complete.map(trained));
    const [unit, size] = last > 7200 ? ["h", 3600] : last > 120 ? ["min", 60] : ["s", 1];
    const places = feasible.map((c) => ({ c, at: trained(c) / size })).sort((p, q) => p.at - q.at);
    const best = { x: [], y: [] };
    for (const { c, at } of places) {
      const value = c.metrics[metric];
      if (!best.y.length || better(own.head, value, best.y.at(-1))) { best.x.push(at); best.y.push(value); }
    }
    if (best.x.length) { best.x.push(last / size); best.y.push(best.y.at(-1)); }
    const yaxis = axis(`${label(metric)} (${direction === "min" ? "lower" : "higher"} is better)`, rangeOf(own, metric));
    const guess = known(own.head.guess) ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: own.head.guess, y1: own.head.guess, line: { dash: "dot", width: 1, color: css("soft") } }] : [];
    const lines = simpleLines(own, yaxis.type === "log");
    const thin = places.length > 2000 ? places.filter((_, i) => i % Math.ceil(places.length / 2000) === 0) : places;
    draw(plain("progress"), `Best ${label(metric)} over time of training`, [
      { type: "scatter", mode: "markers", x: thin.map((p) => p.at), y: thin.map((p) => p.c.metrics[metric]), marker: { size: 5, opacity: 0.6, color: thin.map((p) => family(p.c.family).colour) }, hoverinfo: "skip" },
      { type: "scatter", mode: "lines", ...best, line: { shape: "hv", color: css("ink"), width: 1.8 }, hoverinfo: "skip" },
    ], { xaxis: { ...axis(`time of training, pauses left out (${unit})`), rangemode: "tozero" }, yaxis, shapes: [...lines.shapes, ...guess], annotations: lines.annotations });
  });
}

function drawChance(own) {
  const found = own.live?.chance ?? own.head.chance;
  if (!found?.at) { say($("chance-note"), ""); return blank("chance", note("What chance would have reached is computed from 30 complete candidates on.")); }
  return drawnFor($("chance"), [own.id, own.revision, found.at, found.mean], () => {
    const box = boxOfChance(found.box), history = hypervolumeByNumber(own, box);
    const simple = own.facts.simple.filter((b) => box.every((o) => known(b.metrics[o.metric])) && inside(b, own.head.constraints));
    const level = simple.length ? hypervolume(simple.map((b) => box.map((o) => o.at(b.metrics[o.metric]))), box.map(() => 1)) : null;
    const line = (name, x, y, style) => ({ type: "scatter", mode: "lines", name, x, y, line: style, hovertemplate: `${name}: %{y:.3f} after %{x}<extra></extra>` });
    const ends = [1, Math.max(...found.at, ...history.map(([n]) => n))], grey = css("soft");
    draw(plain("chance"), "Hypervolume by number of candidates: of this search, of random sampling, and of the simple models", [
      { ...line("chance, 8 of 10", [...found.at, ...[...found.at].reverse()], [...found.low, ...[...found.high].reverse()], { width: 0 }), fill: "toself", fillcolor: `${grey}33`, hoverinfo: "skip", hovertemplate: undefined },
      line("chance", found.at, found.mean, { color: grey, width: 1.8, dash: "dash" }),
      ...level === null ? [] : [line("simple models", ends, [level, level], { color: css("simple"), width: 1.8, dash: "dot" })],
      line("this search", history.map(([n]) => n), history.map(([, v]) => v), { color: COLOURS[theme()][0], width: 2.2, shape: "hv" }),
    ], {
      xaxis: { ...axis("candidates that have ended"), rangemode: "tozero" }, yaxis: { ...axis("hypervolume (fraction)"), rangemode: "tozero" },
      showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { l: 62, r: 12, t: 26, b: 44 },
    });
    say($("chance-note"), `Chance is random sampling of the same spaces, predicted by a forest that was fitted to ${count(found.candidates)} candidates and explains ${Math.round(100 * Math.max(0, found.r2))} % of the variance of ${label(own.head.quality.metric)} in those it had not seen${found.r2 < 0.3 ? ": a rough guide" : ""}. The search’s own candidates in another order would be no chance: a model chose them. ${level === null ? "Of simple models not all objectives were measured." : "Simple models: the front of all of them together."}`);
  });
}

// ---- parameters -----------------------------------------------------------------------------------

// The parameters of a family, or those of all candidates' that are shown.
function parametersOf(candidates) {
  const names = new Map();
  for (const { config } of candidates) for (const [name, value] of Object.entries(config)) {
    if (!names.has(name)) names.set(name, new Set());
    names.get(name).add(value);
  }
  return [...names].filter(([, values]) => values.size > 1).map(([name]) => name).sort();
}

function familyOf(own) {
  const select = $("why-family"), names = own.facts.families.filter((name) => own.facts.complete.some((c) => c.family === name));
  options(select, names.map((name) => [name, name]), names.includes(select.value) ? select.value : current().front[0]?.family ?? names[0] ?? "");
  return select.value;
}

const MOST_LINES = 1000;
function drawParallel(own) {
  const chosen = familyOf(own), { metric } = own.head.quality;
  const candidates = own.facts.ranked.filter((c) => c.family === chosen && isKept(c) && isBrushed(c)).slice(0, MOST_LINES);
  drawnFor($("parallel"), [own.id, own.revision, chosen, [...view.hidden], view.filter, view.brush], () => {
    if (candidates.length < 2) { purge($("parallel")); return fill("parallel", note("Two complete candidates of a family are needed.")); }
    const names = parametersOf(candidates).slice(0, 9);
    const dimension = (title, values) => {
      if (!values.every((v) => v === undefined || known(v))) {
        const words = [...new Set(values.map(setting))].sort();
        return { label: escaped(title), values: values.map((v) => words.indexOf(setting(v))), tickvals: words.map((_, i) => i), ticktext: words.map(escaped) };
      }
      const range = span(values);
      if (!range.log) return { label: escaped(title), values: values.map((v) => v ?? null) };
      const low = Math.floor(Math.log10(range.low)), ticks = Array.from({ length: Math.ceil(Math.log10(range.high)) - low + 1 }, (_, i) => low + i);
      return { label: escaped(title), values: values.map((v) => Math.log10(v)), tickvals: ticks, ticktext: ticks.map((t) => short(10 ** t)) };
    };
    const quality = candidates.map((c) => c.metrics[metric]), costs = own.facts.shown.filter((name) => own.head.costs.includes(name)).slice(0, 2);
    const dimensions = [...names.map((name) => dimension(name, candidates.map((c) => c.config[name]))),
      ...costs.map((name) => dimension(label(name), candidates.map((c) => c.metrics[name]))), dimension(label(metric), quality)];
    return drawParallelLines($("parallel"), dimensions, quality, `Parallel coordinates of ${plural(candidates.length, "candidate")} of ${chosen}`, own);
  });
}

// Parallel coordinates in SVG of our own: plotly.js draws them by WebGL, which compiles code.
function drawParallelLines(node, dimensions, quality, name, own) {
  const width = Math.max(640, node.clientWidth || 900), height = 300, top = 34, bottom = 24, left = 60, right = 60;
  const svg = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const scale = SCALE[theme()], ends = span(quality), minimise = own.head.quality.direction === "min";
  const rank = (v) => { const at = (v - ends.low) / (ends.high - ends.low || 1); return minimise ? 1 - at : at; };
  const x = (i) => left + i * (width - left - right) / Math.max(1, dimensions.length - 1);
  const spans = dimensions.map((d) => d.tickvals && d.ticktext ? span([...d.values, ...d.tickvals.filter((t) => t >= span(d.values).low && t <= span(d.values).high)]) : span(d.values));
  const y = (i, v) => height - bottom - (height - top - bottom) * (v - spans[i].low) / (spans[i].high - spans[i].low || 1);
  const order = quality.map((q, k) => k).sort((a, b) => rank(quality[a]) - rank(quality[b])); // the best on top
  const lines = order.map((k) => {
    const path = dimensions.map((d, i) => known(d.values[k]) ? `${x(i).toFixed(1)},${y(i, d.values[k]).toFixed(1)}` : null).filter(Boolean);
    const at = rank(quality[k]);
    return svg("polyline", { points: path.join(" "), fill: "none", stroke: scale[Math.min(4, Math.floor(5 * at))], "stroke-width": at > 0.9 ? 1.8 : 1, "stroke-opacity": 0.25 + 0.6 * at });
  });
  const axes = dimensions.map((d, i) => {
    const at = d.tickvals ?? [spans[i].low, (spans[i].low + spans[i].high) / 2, spans[i].high];
    const words = d.ticktext ?? at.map((v) => Math.abs(v) >= 1000 ? short(v) : String(Number(v.toPrecision(3))));
    return svg("g", {},
      svg("line", { x1: x(i), x2: x(i), y1: top, y2: height - bottom, class: "axis-line" }),
      svg("text", { x: x(i), y: i % 2 ? 26 : 12, "text-anchor": "middle", class: "axis-name" }, d.label.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&")),
      ...at.map((v, k) => [v, words[k]]).filter(([v]) => v >= spans[i].low - 1e-9 && v <= spans[i].high + 1e-9)
        .map(([v, word]) => svg("text", { x: x(i) + 4, y: y(i, v) + 4, class: "axis-tick" }, word.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&"))));
  });
  fill(node, svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name, class: "parallel" }, ...lines, ...axes));
}

function drawSlices(own) {
  const chosen = $("why-family").value, { metric } = own.head.quality;
  const candidates = own.facts.ranked.filter((c) => c.family === chosen && isKept(c));
  drawnFor($("slices"), [own.id, own.revision, chosen, [...view.hidden], view.filter], () => {
    const names = parametersOf(candidates).filter((name) => candidates.some((c) => known(c.config[name]))).slice(0, 8);
    purge($("slices"));
    fill("slices", names.map((name) => el("div", { class: "slice", "data-name": name })));
    const yRange = rangeOf(own, metric);
    names.forEach((name, i) => {
      const values = candidates.slice(0, 1500), range = span(values.map((c) => c.config[name]));
      draw($("slices").children[i], `${label(metric)} against ${name}`, [{
        type: "scatter", mode: "markers", x: values.map((c) => c.config[name]), y: values.map((c) => c.metrics[metric]),
        marker: { size: 5, opacity: 0.7, color: family(chosen).colour }, hovertemplate: "%{x}, %{y:.4f}<extra></extra>",
      }], { xaxis: axis(name, range), yaxis: { ...axis(i % 4 ? "" : label(metric), yRange), nticks: 5 }, margin: { l: 66, r: 8, t: 6, b: 40 } });
    });
    if (!names.length) fill("slices", note("No numeric parameter varies yet."));
  });
}

function drawImportance(own) {
  const found = own.live?.importance ?? own.head.importance;
  const rows = found?.[$("why-family").value];
  if (!rows) return blank("importance", fine("Importance is computed from 30 complete candidates of a family on."));
  const most = Math.max(...rows.parameters.map(([, value]) => value), 1e-9);
  return drawnFor($("importance"), [own.id, rows], () => fill("importance",
    el("p", {}, `A forest fitted to ${plural(rows.candidates, "candidate")} explains ${Math.round(100 * Math.max(0, rows.r2))} % of the variance of ${label(own.head.quality.metric)} in candidates it has not seen${rows.r2 < 0.3 ? ": too little for the order below to mean much" : ""}.`),
    table([th("parameter"), th("importance", "n"), th("")], rows.parameters.slice(0, 12).map(([name, value]) => tr(
      td("wrap", el("code", {}, name)), td("n", value.toFixed(3)), td("gauge", bar(Math.max(0, value / most))))))));
}

// ---- stopped and failed --------------------------------------------------------------------------

function stopped(own) { // by state and reason, the most frequent first
  const groups = new Map();
  for (const c of own.list) {
    if (c.state === "complete" || c.state === "running") continue;
    const key = `${c.state} ${c.reason}`;
    if (!groups.has(key)) groups.set(key, { key, state: c.state, reason: c.reason, members: [] });
    groups.get(key).members.push(c);
  }
  return [...groups.values()].sort((p, q) => q.members.length - p.members.length);
}

const opener = (c) => el("button", { type: "button", class: "number", "aria-label": `Open candidate ${c.number}`, onclick: () => open(c.number) }, `#${c.number}`);
function drawFailures(own) {
  const { head } = own, groups = stopped(own);
  $("no-failures").hidden = groups.length > 0;
  fill("failure-words", head.failures.map(fine));
  keyed($("failures"), groups, (group) => group.key, ({ state, reason }) => el("tr", {},
    td(null, el("b", {}, reason || state), reason ? ` · ${state}` : "", el("div", { class: "fine" }, head.reasons[reason || state] ?? "")),
    td("gauge", el("span"), el("span", { class: `bar ${state}` })), el("td")), (node, { members }) => {
    const [, gauge, latest] = node.children;
    say(gauge.children[0], count(members.length));
    gauge.children[1].style.width = `${100 * members.length / groups[0].members.length}%`;
    keyed(latest, members.slice(-5).reverse(), (c) => c.number, opener);
  });
}

// ---- learning rates, space, data --------------------------------------------------------------------

function drawRates(own) {
  const tests = Object.entries(own.head.rate_tests).filter(([, test]) => test.rates);
  $("tested").hidden = !tests.length;
  drawnFor($("rates"), [own.id, tests.length], () => {
    purge($("rates"));
    fill("rates", tests.map(([name, test]) => el("div", {}, el("h3", {}, name, el("small", {}, test.note ?? "")), el("div", { class: "curve" }))));
    tests.forEach(([name, { rates, losses, smooth, bounds }], at) => {
      const { colour } = family(name), base = { type: "scatter", x: rates, hovertemplate: "rate %{x:.2e}, loss %{y:.3f}<extra></extra>" };
      const low = Math.min(...smooth, ...losses.filter(known)), high = Math.max(...smooth), pad = 0.15 * (high - low) || 0.1;
      const band = { type: "rect", xref: "x", yref: "paper", layer: "below", line: { width: 0 }, y0: 0, y1: 1 };
      draw($("rates").querySelectorAll(".curve")[at], `Learning-rate range test of ${name}`, [
        { ...base, y: losses, mode: "markers", marker: { size: 4, color: colour, opacity: 0.45 } },
        { ...base, y: smooth, mode: "lines", line: { color: colour, width: 1.8 } },
      ], {
        xaxis: { ...axis("learning rate"), type: "log", dtick: 1, exponentformat: "power" }, yaxis: { ...axis("loss"), range: [low - pad, high + pad], nticks: 5 },
        margin: { l: 56, r: 12, t: 8, b: 40 },
        shapes: [
          { ...band, x0: bounds.low, x1: bounds.high, fillcolor: colour, opacity: 0.12 },
          { ...band, type: "line", x0: bounds.default, x1: bounds.default, line: { width: 1.2, color: colour, dash: "dash" } },
        ],
      });
    });
  });
}

function drawSpaces(own) {
  const { spaces, rules } = own.head, only = Object.keys(spaces).length === 1;
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
  drawnFor($("spaces"), [own.id, spaces], () => {
    const blocks = Object.entries(spaces).map(([name, params]) => el("details", { open: only },
      el("summary", {}, name, el("small", {}, plural(params.length, "parameter"))), scroll(`Space of ${name}`, table(headings(), params.map(row)))));
    fill("spaces", blocks.length ? blocks : note("Not recorded."));
  });
}

function drawFacts(own) {
  const { profile, versions, notes, modality, device, objectives, constraints } = own.head;
  const unranked = own.facts.unmeasured.length;
  const hash = (text) => text && el("code", {}, text);
  const classes = ({ name, classes: names, counts }) => scroll(`Classes of ${name}`, table([], names.map((each, i) => tr(
    td("wrap", each), td("n", count(counts[i] ?? 0)), td("gauge", bar((counts[i] ?? 0) / Math.max(...counts, 1)))))));
  const target = (t) => [
    el("h3", {}, `Target ${t.name}`, el("small", {}, t.kind === "regression"
      ? `regression, mean ${setting(t.mean)}, standard deviation ${setting(t.std)}`
      : `${t.kind}, ${t.classes.length} classes, training samples of each`)),
    ...t.counts.length ? [classes(t)] : [],
  ];
  drawnFor($("profile"), [own.id, profile, unranked, notes], () => {
    fill("profile", facts([
      ["samples", `${count(profile.n_train)} train, ${count(profile.n_val)} validation, ${count(profile.n_test)} test`],
      ["inputs", Object.entries(profile.inputs).map(([name, shape]) => `${name} ${shape.join(" × ") || "scalar"}`).join(", ")],
      ["columns", profile.numeric + profile.categorical ? `${profile.numeric} numeric, ${profile.categorical} categorical;`
        + ` at most ${(100 * profile.missing).toFixed(1)} % missing in one` : ""],
      ["split", profile.split_method], ["split hash", hash(profile.split)], ["data hash", hash(profile.fingerprint)],
    ]), profile.targets.flatMap(target));
    fill("about", facts([
      ["modality", modality], ["device", device],
      ["objectives", objectives.map((o) => `${label(o.metric)} (${o.direction})`).join(", ")],
      ["limits", constraints.map((c) => `${label(c.metric)} ${sign(c.op)} ${show(c.metric, c.bound)}`).join(", ") || "none"],
      ["not ranked", unranked ? `${plural(unranked, "complete candidate")} without one of these metrics` : ""],
      ["versions", Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")],
    ]), notes.map(fine));
  });
}

function mountWhy() {
  $("why-family").addEventListener("change", () => changed("plots"));
}
