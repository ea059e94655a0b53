// The page "Explorer": limits, plots, tiles, the table and the candidates that are selected.

let marks = []; // the two plots
let grid = null;

function mountExplorer() {
  grid = new CandidateTable($("table"));
  marks = [0, 1].map((i) => {
    const plot = new MarkPlot((points) => {
      const [x, y] = axesOf(study())[i];
      view.brush = { x, y, points };
      changed("rows", "plots");
    });
    const choose = (which) => el("select", {
      id: `axis-${i}-${which}`,
      onchange: (event) => {
        view.axes = axesOf(study()).map((pair) => [...pair]);
        view.axes[i][which === "x" ? 0 : 1] = event.target.value;
        changed("plots");
      },
    });
    const selects = ["y", "x"].map((which) => el("label", { for: `axis-${i}-${which}` }, which, choose(which)));
    $("plots").append(el("div", { class: "card plot-card" }, el("div", { class: "axes" }, selects, exportButtons(plot, i)), plot.box));
    return plot;
  });
  $("filter").addEventListener("input", (event) => { setFilter(event.target.value); changed("limits"); });
  $("reset").addEventListener("click", () => {
    view.limits.clear();
    view.hidden.clear();
    view.brush = null;
    setFilter("");
    $("filter").value = "";
    changed("limits", "plots", "rows");
  });
  $("colour").addEventListener("change", (event) => { view.colour = event.target.value; changed("plots"); });
  $("size").addEventListener("change", (event) => { view.size = event.target.value; changed("plots"); });
  for (const input of document.querySelectorAll("input[name=rows]"))
    input.addEventListener("change", () => { view.rows = input.value; changed("rows"); });
  for (const input of document.querySelectorAll("input[name=drag]"))
    input.addEventListener("change", () => { view.drag = input.value; changed("plots"); });
  $("unbrush").addEventListener("click", () => { view.brush = null; changed("rows", "plots"); });
  $("below").addEventListener("change", (event) => { view.below = event.target.checked; changed("rows", "plots"); });
  if (touch) $("drag").hidden = true;
}

function drawExplorer(what) {
  const own = study();
  drawTiles(own);
  drawLimits(own);
  drawFamilies(own);
  drawChoices(own);
  drawMarks(own);
  drawTable(own);
  if (what.has("data") || what.has("picks") || what.has("page") || what.has("theme")) drawSelected(own);
}

// ---- limits and filters ------------------------------------------------------------------------------

const STEPS = 200;
function drawLimits(own) {
  const { ranked, complete, unmeasured } = own.facts, { limits, feasible, front } = current();
  keyed($("limits"), ranked.length ? limits : [], (limit) => limit.key, (limit) => {
    const id = `limit-${limit.key.replace(/\W+/g, "-")}`;
    const range = el("input", { type: "range", min: 0, max: STEPS, id, oninput: () => { moveLimit(limit.key, Number(range.value)); } });
    return el("div", { class: "limit" }, el("label", { for: id }, el("span"), el("output", { for: id })), range);
  }, (node, limit) => {
    const range = node.querySelector("input");
    say(node.querySelector("label span"), `${label(limit.metric)} ${sign(limit.op)}`);
    say(node.querySelector("output"), limit.bound === null ? "any" : show(limit.metric, limit.bound));
    range.setAttribute("aria-valuetext", limit.bound === null ? "any" : show(limit.metric, limit.bound));
    // Not under the user's hand: what is dragged stays where it is.
    if (!range.matches(":active")) range.value = limitPosition(own, limit);
  });
  $("no-limits").hidden = ranked.length > 0;
  const blanks = unmeasured.length ? `; ${count(unmeasured.length)} not measured${own.head.latency_on ? ` on ${own.head.latency_on}` : ""}` : "";
  const kind = unmeasured.length ? "measured" : "complete";
  say($("feasible"), !complete.length ? ""
    : `${count(feasible.length)} of ${plural(ranked.length, `${kind} candidate`)} inside, ${count(front.length)} on the front${blanks}.`);
  $("unmeasured").hidden = !unmeasured.length;
  say($("unmeasured").lastChild, `not measured${own.head.latency_on ? ` on ${own.head.latency_on}` : ""}`);
  const filter = $("filter");
  if (document.activeElement !== filter && filter.value !== view.filter) filter.value = view.filter;
  filter.setAttribute("aria-invalid", String(Boolean(view.filterError)));
  say($("filter-error"), view.filterError);
}

// The ends of a slider: of all that is ranked, and the task's own bound.
function limitEnds(own, { metric, task }) {
  return span([own.spanOf(metric).low, own.spanOf(metric).high, task]);
}
function limitPosition(own, limit) {
  const { low, high, log } = limitEnds(own, limit), { bound } = limit;
  if (bound === null) return limit.op === "<=" ? STEPS : 0;
  return Math.round(STEPS * (log ? Math.log(bound / low) / Math.log(high / low) : (bound - low) / (high - low || 1)));
}
function moveLimit(key, position) {
  const own = study(), limit = limitsOf(own).find((each) => each.key === key), { low, high, log } = limitEnds(own, limit);
  const loose = limit.op === "<=" ? STEPS : 0, fraction = position / STEPS;
  const value = log ? low * (high / low) ** fraction : low + (high - low) * fraction;
  view.limits.set(key, position === loose ? null : loosened(value, limit.op, log ? value * Math.log(high / low) / STEPS : (high - low) / STEPS));
  changed("limits");
}

// Rounded to digits that the slider resolves, on the side that lets more candidates in: a bound at the best
// of all leaves that one. `step` is how far it moves with the slider.
function loosened(value, op, step) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(step / 4, 1e-10 * Math.abs(value)) || 1)), side = op === "<=" ? 1 : -1;
  const rounded = (by) => Number(((Math.round(value / unit) + by) * unit).toPrecision(12));
  return side * (rounded(0) - value) >= 0 ? rounded(0) : rounded(side);
}

function drawFamilies(own) {
  const { front } = current(), number = (list, name) => list.reduce((sum, c) => sum + (c.family === name), 0);
  keyed($("families"), own.facts.families, (name) => name, (name) => el("li", {}, el("label", {},
    el("input", { type: "checkbox", onchange: (event) => {
      view.hidden[event.target.checked ? "delete" : "add"](name);
      changed("limits", "plots");
    } }), el("span", { class: "mark" }), el("span", { class: "name" }, name)), el("span", { class: "of" })),
  (node, name) => {
    const { colour, symbol } = family(name), mark = node.querySelector(".mark");
    mark.style.color = colour;
    say(mark, symbol[1]);
    node.querySelector("input").checked = !view.hidden.has(name);
    say(node.querySelector(".of"), `${count(number(front, name))} of ${count(number(own.facts.complete, name))}`);
  });
}

function options(select, names, chosen) {
  keyed(select, names, ([value]) => value, ([value]) => el("option", { value }), (node, [, name]) => say(node, name));
  if (select.value !== chosen && document.activeElement !== select) select.value = chosen;
}

function drawChoices(own) {
  const measures = own.measures().map((name) => [name, name.startsWith("config.") ? name.slice(7) : label(name)]);
  axesOf(own).forEach(([x, y], i) => {
    options($(`axis-${i}-x`), measures, x);
    options($(`axis-${i}-y`), measures, y);
  });
  options($("colour"), [["family", "family"], ...measures], view.colour);
  options($("size"), [["", "the same"], ...measures], view.size);
  for (const input of document.querySelectorAll("input[name=rows]")) input.checked = input.value === view.rows;
  for (const input of document.querySelectorAll("input[name=drag]")) input.checked = input.value === view.drag;
  $("unbrush").hidden = !view.brush;
  const below = own.facts.below.size;
  $("below-row").hidden = !below;
  say($("below-text"), `show ${plural(below, "candidate")} below the best simple model`);
  $("below").checked = view.below;
}

// ---- tiles -----------------------------------------------------------------------------------------

// The best simple model beside the network that is compared with it, and the error of the difference.
function rivals(own, best) {
  const { tested, quality: { metric } } = own.head, [simple] = own.facts.simple;
  if (known(tested?.value)) {
    const [name, level] = tested.simple ?? [];
    return { name, level, ours: tested.value, error: known(tested.low) ? (tested.high - tested.low) / 3.92 : NaN };
  }
  const errors = [best.error, simple?.error_of ?? 0];
  return { name: simple?.name, level: simple?.metrics[metric], ours: best.metrics[metric], error: Math.hypot(...errors) };
}
function drawTiles(own) {
  const { quality, tested } = own.head, { metric } = quality, { front } = current();
  const tiles = [], add = (name, value, unit, remark) => tiles.push({ name, value, unit, remark });
  if (known(tested?.value)) {
    const mean = tested.networks > 1 ? `, the mean of ${count(tested.networks)} networks` : "";
    const range = known(tested.low) ? `; ${show(metric, tested.low)} to ${show(metric, tested.high)} with 95 % confidence` : "";
    add(`Test ${label(metric)} at full scale`, show(metric, tested.value), "", `#${tested.number} ${tested.family}${mean}${range}`);
  }
  if (!front.length) {
    add("Pareto front", "empty", "", own.facts.complete.length ? "no complete candidate is inside these limits" : "no candidate is complete yet");
  } else {
    const best = front[0], value = best.metrics[metric], noise = withinNoise(own, best, current().feasible);
    add(`Best ${label(metric)}`, metricText(best, metric), "", `#${best.number} ${best.family}${noise.length > 1 ? `; ${count(noise.length - 1)} more within one standard error` : ""}`);
    // Of the network at full scale and of the test part, where a training ended the search.
    const { name, level, ours, error } = rivals(own, best);
    if (known(level)) {
      const equal = Math.abs(ours - level) <= 1e-6 * Math.abs(level), gap = equal ? 0 : ours - level;
      const noisy = known(error) && Math.abs(gap) <= error;
      const ahead = better(own.head, ours, level) && !equal;
      const verdict = equal ? "As good as simple models" : noisy ? "Simple models: no clear difference" : ahead ? "Better than simple models" : "Not better than simple models";
      const mark = gap > 0 ? "+" : gap < 0 ? "−" : "";
      const where = known(tested?.value) ? " on the test part" : "";
      add(verdict, equal ? "0" : mark + show(metric, Math.abs(gap)), label(metric), `against ${name}, ${show(metric, level)}${where}`);
    }
    // Of those as good as the best: a fast or small network that has learnt little is no find.
    for (const [cost, name, unit] of [["latency_ms", "Fastest as good as the best", "ms"], ["params", "Smallest as good as the best", "parameters"]]) {
      const [least] = noise.filter((c) => known(c.metrics[cost])).sort((p, q) => p.metrics[cost] - q.metrics[cost]);
      if (least) add(name, show(cost, least.metrics[cost]), unit, `#${least.number} ${least.family}, ${label(metric)} ${show(metric, least.metrics[metric])}`);
    }
  }
  keyed($("tiles"), tiles, (tile) => tile.name, () => el("div", { class: "tile" }, el("span"), el("b", {}, el("span"), el("small")), el("span")), (node, tile) => {
    say(node.children[0], tile.name);
    say(node.children[1].children[0], tile.value);
    say(node.children[1].children[1], ` ${tile.unit}`);
    say(node.children[2], tile.remark);
  });
}

// ---- plots -----------------------------------------------------------------------------------------

// The colour of each candidate by family, or by a measure on a scale.
function paints(own) {
  if (view.colour === "family") {
    const colours = new Map(own.facts.families.map((name) => [name, family(name).colour]));
    return (c) => colours.get(c.family);
  }
  const { low, high, log } = own.spanOf(view.colour), scale = SCALE[theme()];
  const at = (v) => log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low || 1);
  return (c) => {
    const value = measure(c, view.colour);
    return known(value) ? scale[Math.min(4, Math.floor(5 * at(value)))] : css("outside");
  };
}
function sizes(own, least, most) {
  if (!view.size) return () => (least + most) / 2;
  const { low, high, log } = own.spanOf(view.size);
  return (c) => {
    const value = measure(c, view.size);
    if (!known(value)) return least;
    const at = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low || 1);
    return Math.round(least + at * (most - least));
  };
}

// The range of an axis. What is below the best simple model is folded away from the axis of the
// quality where enough is above: it is mostly what has learnt little, and takes most of the room.
function rangeOf(own, name) {
  const range = { ...own.spanOf(name) }, { quality } = own.head;
  if (name !== quality.metric) return { ...range, folded: 0 };
  // A score near 1 is read on a linear scale; an error over several decades is not.
  range.log &&= quality.direction === "min";
  const level = own.facts.simple[0]?.metrics[name];
  const { above } = own.facts;
  if (view.below || !known(level) || above.length < 3) return { ...range, folded: 0 };
  // With room for their errors, and for some of what is below.
  const errors = above.map((c) => c.error ?? 0), widest = Math.max(...errors.slice(0, 5000));
  const near = span([...above.map((c) => c.metrics[name]), level]), gap = Math.max(0.5 * (near.high - near.low), 1.5 * widest);
  if (quality.direction === "max") Object.assign(range, { low: Math.max(range.low, near.low - gap), high: near.high + widest });
  else Object.assign(range, { high: Math.min(range.high, near.high + gap), low: near.low - widest });
  range.log &&= range.low > 0;
  return { ...range, folded: own.facts.complete.length - above.length };
}

function drawMarks(own) {
  const empty = !own.facts.complete.length;
  $("no-plots").hidden = !empty;
  $("plots").hidden = empty;
  if (empty) return;
  axesOf(own).forEach(([x, y], i) => marks[i].set(scene(own, x, y)));
}

const MOST_PLOTLY = 120;
function scene(own, xName, yName) {
  const { isFeasible, front, isOnFront } = current(), { complete, unmeasured } = own.facts;
  const { quality } = own.head, paint = paints(own), many = complete.length > 1500;
  const size = sizes(own, many ? 3 : 5, many ? 6 : 9), blank = new Set(unmeasured);
  const has = (c) => known(measure(c, xName)) && known(measure(c, yName));
  const place = (c, mark) => ({ c, x: measure(c, xName), y: measure(c, yName), mark });
  const hollow = (c) => c.contended && (xName === "latency_ms" || yName === "latency_ms");
  // A front of so many marks would take plotly.js a tenth of a second.
  const crowded = front.length > MOST_PLOTLY, strong = sizes(own, 7, 11), ink = css("ink");
  const outside = css("outside"), soft = css("soft"), layers = [[], [], [], []];
  const symbols = new Map(own.facts.families.map((name) => [name, family(name).symbol[0]]));
  for (const c of complete) {
    if (!isKept(c) || !has(c)) continue;
    const dim = isBrushed(c) ? 1 : 0.15;
    const mark = (colour, opacity, symbol = symbols.get(c.family), side = size(c), edge = "") =>
      markOf(symbol, colour, side, hollow(c) || symbol === null, opacity * dim, edge);
    if (blank.has(c)) layers[1].push(place(c, mark(soft, 1, null)));
    else if (!isFeasible.has(c)) layers[0].push(place(c, mark(outside, 0.9)));
    else if (isOnFront.has(c)) layers[3].push(place(c, crowded ? mark(paint(c), isBelowSimple(own, c) ? 0.5 : 1, undefined, strong(c), ink) : null));
    else layers[2].push(place(c, mark(paint(c), isBelowSimple(own, c) ? 0.35 : many ? 0.75 : 0.85)));
  }
  const yRange = rangeOf(own, yName), xRange = rangeOf(own, xName);
  const direction = (name) => name === quality.metric ? ` (${quality.direction === "min" ? "lower" : "higher"} is better)` : "";
  const xAxis = axis(label(xName) + direction(xName), xRange), yAxis = axis(label(yName) + direction(yName), yRange);
  const lines = yName === quality.metric ? simpleLines(own, yAxis.type === "log") : {};
  const shown = front.filter(has).filter(isKept);
  const traces = [
    ...layOver(own, xName, yName),
    ...simpleMarks(own, xName, yName),
    frontMarks(own, crowded ? [] : shown, xName, yName, paint, hollow),
    rings(own, xName, yName),
  ];
  const simple = simplePlaces(own, xName, yName);
  return {
    name: `${label(yName)} against ${label(xName)}: ${plural(complete.length, "candidate")}, ${shown.length} on the front. Arrow keys walk along the front, Enter selects; the table below has all.`,
    x: xAxis, y: yAxis, traces, points: [...layers[0], ...layers[1], ...layers[2], ...layers[3], ...simple], walk: isOnFront,
    stairs: yName === quality.metric ? staircase(own, shown, xName, xAxis) : { x: [], y: [] },
    shape: { ...lines, dragmode: touch ? false : view.drag, selections: [] },
  };
}

function frontMarks(own, front, xName, yName, paint, hollow) {
  const { metric } = own.head.quality, size = sizes(own, 8, 14);
  const errors = (name) => {
    const field = name === metric ? "error" : name === "latency_ms" ? "spread" : null;
    const array = field ? front.map((c) => c[field] ?? 0) : [];
    return { type: "data", array, visible: array.some((value) => value > 0), thickness: 1, width: 0, color: css("error") };
  };
  return {
    type: "scatter", mode: "markers", name: "front", x: front.map((c) => measure(c, xName)), y: front.map((c) => measure(c, yName)),
    error_x: errors(xName), error_y: errors(yName), customdata: front.map((c) => c.number), selectedpoints: null,
    marker: {
      symbol: front.map((c) => family(c.family).symbol[0] + (hollow(c) ? "-open" : "")), color: front.map(paint), size: front.map(size),
      line: { color: front.map((c) => hollow(c) ? paint(c) : css("ink")), width: front.map((c) => hollow(c) ? 2 : 1) },
      opacity: front.map((c) => !isBrushed(c) ? 0.15 : isBelowSimple(own, c) ? 0.4 : 1),
    },
  };
}

const simpleStands = (own, xName, yName) => own.facts.simple.filter((b) => known(b.metrics[xName]) && known(b.metrics[yName]));
function simpleMarks(own, xName, yName) { // where the costs of simple models were measured, they stand in the plot
  const found = simpleStands(own, xName, yName);
  if (!found.length) return [];
  const error = yName === own.head.quality.metric ? { error_y: { type: "data", array: found.map((b) => b.error_of ?? 0), thickness: 1, width: 0, color: css("simple") } } : {};
  return [{
    type: "scatter", mode: "markers", x: found.map((b) => b.metrics[xName]), y: found.map((b) => b.metrics[yName]), ...error,
    marker: { symbol: "star-diamond", size: 13, color: css("simple"), line: { width: 1, color: css("ink") } },
  }];
}
const simplePlaces = (own, xName, yName) => simpleStands(own, xName, yName).map((b) => ({
  x: b.metrics[xName], y: b.metrics[yName], title: b.name, mark: null,
  lines: ["simple model, outside the search", ...Object.keys(b.metrics).filter((name) => own.facts.shown.includes(name)).map((name) => `${label(name)} ${show(name, b.metrics[name])}`)],
}));

function rings(own, xName, yName) {
  const found = view.picks.map((number, i) => [own.byNumber.get(number), i]).filter(([c]) => c && known(measure(c, xName)) && known(measure(c, yName)));
  return {
    type: "scatter", mode: "markers", x: found.map(([c]) => measure(c, xName)), y: found.map(([c]) => measure(c, yName)),
    marker: { symbol: "circle-open", size: 21, color: found.map(([, i]) => pickColour(i)), line: { width: 2.5 } },
  };
}

// The best quality to be had at or below (or above, for a maximised objective) each abscissa.
function staircase(own, front, name, xAxis) {
  const { metric } = own.head.quality, direction = own.head.objectives.find((o) => o.metric === name)?.direction ?? "min";
  const factor = direction === "min" ? 1 : -1, x = [], y = [];
  const sorted = [...front].sort((p, q) => factor * (measure(p, name) - measure(q, name)));
  for (const c of sorted) {
    const value = c.metrics[metric];
    if (!y.length || better(own.head, value, y.at(-1))) { x.push(measure(c, name)); y.push(value); }
  }
  const ends = xAxis.type === "log" ? xAxis.range?.map((v) => 10 ** v) : xAxis.range;
  if (x.length && ends) { x.push(ends[direction === "min" ? 1 : 0]); y.push(y.at(-1)); }
  return { x, y };
}

// The fronts of the other studies that were ticked, as lines over this one's.
function layOver(own, xName, yName) {
  return view.laid.filter((id) => id !== own.id && studies.get(id)?.head).map((id, i) => {
    const other = studies.get(id), { front } = explore(other, limitsOf(other).map((limit) => ({ ...limit, bound: limit.task })), () => true);
    const points = front.filter((c) => known(measure(c, xName)) && known(measure(c, yName))).sort((p, q) => measure(p, xName) - measure(q, xName));
    return {
      type: "scatter", mode: "lines+markers", name: escaped(other.head.name), x: points.map((c) => measure(c, xName)), y: points.map((c) => measure(c, yName)),
      line: { shape: "hv", dash: DASHES[(i + 1) % 4], width: 1.4, color: COLOURS[theme()][(i + 3) % 8] }, marker: { size: 6, symbol: "circle-open" }, showlegend: true,
    };
  });
}

// ---- the table --------------------------------------------------------------------------------------

function drawTable(own) {
  const columns = columnsOf(own), items = itemsOf(own, columns), { front, feasible } = current();
  grid.set(columns, items, view.sort, (key) => {
    view.sort = { key, down: view.sort.key === key && !view.sort.down };
    changed("rows");
  });
  say($("rows-front"), count(front.length));
  say($("rows-feasible"), count(feasible.length));
  say($("rows-all"), count(own.list.length));
  $("no-rows").hidden = items.some((item) => !item.simple);
  say($("no-rows"), own.facts.complete.length ? "No candidate is inside these limits." : "No candidate is complete yet.");
  const seen = front.slice(0, 200);
  say($("table-note"), [
    known(seen[0]?.error) ? `${label(own.head.quality.metric)}: ± one standard error over ${plural(own.head.scored, "sample")}.` : "",
    seen.some((c) => known(c.spread)) ? "Latency: ± half the interquartile range, one batch." : "",
    own.head.latency_on ? `Measured on ${own.head.latency_on}.` : "",
    seen.some((c) => c.contended) ? "† and hollow marks: measured while other work ran." : "",
    seen.some((c) => c.guess) ? "None is clearly better than a constant guess." : "",
    own.head.baselines.length ? "Shaded rows: simple models, trained outside the search." : "",
  ].filter(Boolean).join(" "));
}

// ---- the candidates that are selected -----------------------------------------------------------------

const picked = (own) => view.picks.map((number) => own.byNumber.get(number)).filter(Boolean);
// Candidates with their details, which may have to be fetched or unpacked.
const withDetails = (own, candidates) => Promise.all(candidates.map((c) => detailOf(own, c.number)
  .then((found) => ({ ...c, ...found ?? { missing: true } }), () => ({ ...c, failed: true }))));

let selectedAs = 0; // which drawing is the latest: details that come late are not drawn over it
async function drawSelected(own) {
  const mine = ++selectedAs, candidates = picked(own);
  keyed($("chosen"), candidates, (c) => c.number, (c) => el("span", { class: "pill" },
    el("button", { type: "button", class: "name", onclick: () => open(c.number) }, el("span")),
    el("button", { type: "button", "aria-label": `Deselect candidate ${c.number}`, onclick: () => pick(c.number) }, "×")),
  (node, c) => {
    say(node.querySelector(".name span"), `#${c.number} ${c.family} · ${c.state}${c.reason ? ` (${c.reason})` : ""}`);
    node.style.borderColor = pickColour(view.picks.indexOf(c.number));
  });
  $("nothing-chosen").hidden = candidates.length > 0;
  const chosen = await withDetails(own, candidates);
  if (mine !== selectedAs) return;
  drawCurves($("curves"), own, chosen);
  fill("compare", comparison(own, chosen));
}

function drawCurves(node, own, chosen) {
  const { metric } = own.head.quality, has = (c, key) => c.curve?.some((epoch) => known(epoch[key]));
  const names = { loss: "train loss", val_loss: "validation loss", [metric]: `validation ${label(metric)}` };
  const series = Object.keys(names).filter((key) => chosen.some((c) => has(c, key)));
  const panels = [series.filter((key) => key !== metric), series.filter((key) => key === metric)].filter((keys) => keys.length);
  // One that is opened beside those that are selected takes a colour that none of them has.
  const taken = chosen.map((c) => view.picks.indexOf(c.number)), free = [0, 1, 2, 3, 4].find((place) => !taken.includes(place));
  const colour = (c, i) => pickColour(taken[i] < 0 ? free : taken[i]);
  purge(node);
  fill(node, panels.map(() => el("div", { class: "curve" })));
  panels.forEach((keys, at) => {
    const traces = chosen.flatMap((c, i) => keys.filter((key) => has(c, key)).map((key) => ({
      type: "scatter", mode: "lines+markers", name: `#${c.number} ${escaped(names[key])}`,
      x: c.curve.map((epoch) => epoch.epoch), y: c.curve.map((epoch) => epoch[key] ?? null),
      line: { color: colour(c, i), width: 1.8, dash: key === "val_loss" ? "dot" : "solid" }, marker: { size: 4 },
    })));
    const values = traces.flatMap((trace) => trace.y), range = span(values), title = keys.length > 1 ? "loss" : names[keys[0]];
    const longest = Math.max(...traces.map((trace) => trace.x.length));
    const rungs = own.head.rungs.filter((rung) => rung < longest); // epochs at which candidates are judged
    draw(node.children[at], `Learning curves: ${title} by epoch of ${chosen.map((c) => `candidate ${c.number}`).join(", ")}`, traces, {
      xaxis: axis("epoch"), yaxis: { ...axis(title, range.log ? range : null), nticks: 5, ...around(values) }, margin: { l: 62, r: 12, t: 8, b: 40 },
      hovermode: "x unified", showlegend: traces.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: font(11.5) },
      shapes: rungs.map((rung) => ({ type: "line", xref: "x", x0: rung, x1: rung, yref: "paper", y0: 0, y1: 1, layer: "below", line: { dash: "dot", width: 1, color: css("soft") } })),
      annotations: rungs.map((rung) => ({ x: rung, yref: "paper", y: 0, yanchor: "bottom", xanchor: "left", text: "rung", showarrow: false, font: font(10.5) })),
    });
  });
  if (!chosen.length || panels.length) return;
  if (chosen.some((c) => c.failed)) { fill(node, notFetched()); return; }
  fill(node, fine(chosen.some((c) => c.missing)
    ? "The page keeps curves, layers and gradients of the front, the best others and some of each failure; not of this candidate."
    : "No epoch was finished."));
}

// A single value stands in a range of its own size, not from one below it to one above.
function around(values) {
  const found = new Set(values.filter(known)), [value] = found;
  return found.size === 1 && value ? { range: [0.9 * value, 1.1 * value].sort((a, b) => a - b) } : {};
}

function latencySource({ latency, device }) {
  if (!latency) return "–";
  const batch = known(latency.batch) ? `batch ${latency.batch}` : "";
  const threads = known(latency.threads) ? plural(latency.threads, "thread") : "";
  return [batch, threads, latency.device || device ? `on ${latency.device || device}` : "", latency.isolated ? "other trainings paused" : "beside other work"].filter(Boolean).join(", ");
}

function comparison(own, chosen) {
  if (!chosen.length) return [];
  const row = (name, text, mark = false) => {
    const texts = chosen.map(text);
    if (texts.every((each) => each === "–")) return null;
    const differs = mark && texts.some((each) => each !== texts[0]);
    return el("tr", { class: differs ? "differs" : null }, el("th", { scope: "row", class: "wrap" }, name), texts.map((each) => td("wrap", each)));
  };
  const head = (name) => el("tr", { class: "head" }, el("th", { colspan: chosen.length + 1, scope: "colgroup" }, name));
  const keys = (field) => [...new Set(chosen.flatMap((c) => Object.keys(c[field] ?? {})))];
  const metrics = [...new Set([...own.facts.shown, ...keys("metrics")])];
  const costs = keys("cost").filter((key) => !metrics.includes(key) && chosen.some((c) => known(c.cost?.[key])));
  return table([el("td"), ...chosen.map((c) => th(`#${c.number}`))], [
    head("Result and cost"),
    metrics.map((name) => row(label(name), (c) => metricText(c, name))),
    row("latency measured with", latencySource),
    costs.map((key) => row(label(key), (c) => short(c.cost?.[key]))),
    row("epochs", (c) => String(c.epochs)), row("time", (c) => duration(c.seconds)),
    keys("health").map((key) => row(label(key), (c) => setting(c.health?.[key]))),
    row("origin", (c) => c.origin), row("seed", (c) => String(c.seed ?? "–")),
    head("Configuration"),
    keys("config").sort().map((key) => row(key, (c) => setting(c.config?.[key]), true)),
  ].flat().filter(Boolean));
}
