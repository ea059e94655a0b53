// The page "Candidate": all that is known of one.

// Norms below this are drawn as nothing; the scale is the same for every candidate of every study.
const NORMS = [1e-8, 1e2];

let candidateAs = 0;
async function drawCandidate() {
  const own = study();
  const first = current().front[0] ?? own.list[0];
  const c = own.byNumber.get(view.candidate) ?? first;
  const mine = ++candidateAs;
  chooseCandidate(own, c);
  if (!c) return blank("candidate-body", note("No candidate yet."));
  const others = picked(own).filter((other) => other !== c);
  const [chosen, ...beside] = await withDetails(own, [c, ...others]);
  if (mine !== candidateAs || own !== study()) return undefined;
  // What is open, and where the page was scrolled to, stays through an update.
  const body = $("candidate-body");
  drawnFor(body, [own.id, chosen, others.map((o) => o.number)], () => drawWhole(body, own, chosen, beside));
  return refreshVerdict(body.firstChild, own, chosen);
}

function drawWhole(body, own, chosen, beside) {
  purge(body);
  if (chosen.failed) return fill(body, verdict(own, chosen), card("Details", notFetched()));
  fill(body,
    verdict(own, chosen),
    el("div", { class: "columns" },
      el("div", { class: "stack" }, card("Learning curves", el("div", { id: "own-curves" })), networkPart(chosen)),
      card("Result and configuration", el("div", { class: "sideways" }, comparison(own, [chosen, ...beside])),
        fine("Bold: where the selected candidates differ. Select others on the page Explorer to compare."))),
    exportPart(own, chosen),
    gradientPart(chosen),
    differences(own, chosen),
    chosen.detail ? card("What it said last", el("pre", { tabindex: 0 }, chosen.detail)) : null);
  drawCurves($("own-curves"), own, [chosen, ...beside]);
  drawNorms(chosen);
  return undefined;
}

// The verdict follows from limits, the selection and other candidates too.
function refreshVerdict(before, own, c) {
  const after = verdict(own, c), isHeld = before.contains(document.activeElement);
  if (before.isEqualNode(after)) return;
  before.replaceWith(after);
  if (isHeld) after.lastChild.querySelector("button").focus({ preventScroll: true });
}

const notFetched = () => el("p", { class: "warn", role: "status" }, "The details could not be fetched. ", el("button", { type: "button", onclick: () => changed("page") }, "Try again"));
const card = (title, ...children) => el("section", { class: "card" }, el("h2", {}, title), children);

function chooseCandidate(own, c) {
  const input = $("candidate-number");
  if (document.activeElement !== input) input.value = c ? c.number : "";
  const front = current().front.slice(0, 40);
  keyed($("candidate-near"), front, (each) => each.number, (each) => el("button", { type: "button", class: "number", onclick: () => open(each.number) }, `#${each.number}`),
    (node, each) => { if (each === c) node.setAttribute("aria-current", "true"); else node.removeAttribute("aria-current"); });
}

function verdict(own, c) {
  const sentence = own.head.reasons[c.reason || c.state];
  const { isOnFront, isFeasible } = current(), row = own.byNumber.get(c.number);
  const standing = c.state !== "complete" ? `${c.state}${c.reason ? `: ${c.reason}` : ""}`
    : isOnFront.has(row) ? "on the front" : isFeasible.has(row) ? "inside the limits, dominated" : "outside the limits";
  const dominators = c.state === "complete" && isFeasible.has(row) && !isOnFront.has(row)
    ? current().front.filter((other) => other.costs.every((cost, i) => cost <= row.costs[i])).slice(0, 5) : [];
  const noisy = isOnFront.has(row) && current().noisy.get(row);
  const health = c.health ?? {};
  const why = known(health.threshold) ? `${c.reason || "finding"} at step ${health.step}${health.layer ? ` in ${health.layer}` : ""}: ${setting(health.value)} against a threshold of ${setting(health.threshold)}.` : "";
  return el("section", { class: "card" },
    el("h2", {}, `#${c.number} ${c.family}`, el("small", {}, standing)),
    sentence && c.state !== "complete" ? el("p", {}, `It was stopped because: ${sentence}.`) : null,
    why ? el("p", {}, why) : null,
    noisy ? el("p", {}, "On the front by noise alone: ", el("button", { type: "button", class: "number", onclick: () => open(noisy.number) }, `#${noisy.number}`), " is as good within one standard error, and clearly cheaper or better.") : null,
    dominators.length ? el("p", {}, "Dominated by ", dominators.map((other) => [el("button", { type: "button", class: "number", onclick: () => open(other.number) }, `#${other.number}`), " "])) : null,
    c.state === "complete" && isBelowSimple(own, row) ? el("p", { class: "warn" }, `Below the best simple model, ${own.facts.simple[0].name}.`) : null,
    el("p", {}, el("button", { type: "button", onclick: () => { pick(c.number); } }, view.picks.includes(c.number) ? "Deselect" : "Select to compare")));
}

// Stem, blocks, head: layers by the first part of their names.
function partsOf(layers) {
  const parts = new Map();
  for (const layer of layers) {
    const part = layer.name.split(".")[0];
    if (!parts.has(part)) parts.set(part, []);
    parts.get(part).push(layer);
  }
  return parts;
}

function networkPart(c) {
  const layers = c.layers ?? [];
  if (!layers.length) return card("Network", fine(c.missing ? "The page does not keep the layers of this candidate." : "Its layers were not recorded."));
  const total = layers.reduce((sum, layer) => sum + (layer.params || 0), 0);
  const rows = [...partsOf(layers)].map(([part, own]) => {
    const params = own.reduce((sum, layer) => sum + (layer.params || 0), 0);
    return el("details", {}, el("summary", {}, part, el("small", {}, `${plural(own.length, "layer")}, ${plural(params, "parameter")}`), bar(total ? params / total : 0)),
      layerTable(part, own));
  });
  return card("Network", el("div", { class: "network" }, picture(c), el("div", {},
    el("p", {}, `${plural(layers.length, "layer")}, ${plural(total, "parameter")}; parameters by part:`), rows, normLegend(c))));
}

// The picture comes as text (nas/export/diagram.py): a document of its own, of which only elements and
// attributes for drawing are taken over. Layers with a gradient norm are coloured by it.
const DRAWN = new Set(["svg", "g", "rect", "text", "tspan", "path", "line", "title", "desc", "circle", "polygon"]);
function picture(c) {
  if (!c.picture) return null;
  const parsed = new DOMParser().parseFromString(c.picture, "image/svg+xml").documentElement;
  for (const node of parsed.querySelectorAll("*")) {
    if (!DRAWN.has(node.localName)) { node.remove(); continue; }
    for (const { name } of [...node.attributes]) if (name.startsWith("on") || name.endsWith("href") || name === "style") node.removeAttribute(name);
  }
  const drawn = document.importNode(parsed, true);
  for (const box of drawn.querySelectorAll("[data-layer]")) {
    const norm = c.gradient_norms?.[box.dataset.layer];
    if (norm !== undefined) box.setAttribute("fill", normColour(norm));
    box.append(Object.assign(document.createElementNS("http://www.w3.org/2000/svg", "title"), {
      textContent: `${box.dataset.layer}${known(norm) ? `, gradient norm ${norm.toExponential(1)}` : ""}` }));
  }
  return el("div", { class: "picture", tabindex: 0, role: "region", "aria-label": "Picture of the network" }, drawn);
}

// One scale for every candidate: faint gradients blue, sound ones pale, large ones red; none is grey.
const NORM_COLOURS = ["#7fa8d9", "#a9c6e4", "#cfe0ee", "#eef0e4", "#f7dcb5", "#f2b48a", "#e58b72"];
const normColour = (norm) => !known(norm) ? "#c9b3e6" : norm === 0 ? "#c4c9ce" : NORM_COLOURS[Math.min(6, Math.floor(7 * normAt(norm)))];
function normLegend(c) {
  if (!c.picture || !Object.keys(c.gradient_norms ?? {}).length) return null;
  return el("p", { class: "fine" }, "Colour by gradient norm, on one scale for all: ", el("span", { class: "swatches" },
    NORM_COLOURS.map((colour, i) => el("i", { style: { background: colour } }, `1e${Math.round(Math.log10(NORMS[0]) + i * Math.log10(NORMS[1] / NORMS[0]) / 7)}`))), " and more.");
}

function layerTable(part, layers) {
  const headings = [th("layer"), th("type"), th("output shape", "n"), th("parameters", "n")];
  return scroll(`Layers of ${part}`, table(headings, layers.map((layer) => tr(
    td("wrap", el("code", {}, layer.name)), td(null, layer.type), td("n", (layer.output ?? []).join(" × ") || "–"),
    td("n", layer.params ? count(layer.params) : "–")))));
}

// Position on the fixed logarithmic scale of gradient norms, 0 to 1.
const normAt = (norm) => Math.max(0, Math.min(1, Math.log(norm / NORMS[0]) / Math.log(NORMS[1] / NORMS[0])));

function gradientPart(c) {
  const norms = Object.entries(c.gradient_norms ?? {});
  if (!norms.length) return null;
  return card(["Gradient norms", el("small", {}, "by layer and step, and below at the last sample; one logarithmic scale for all candidates, 1e-8 to 1e2")],
    el("div", { id: "norms" }),
    el("div", { id: "norm-lines" }),
    fine("A training is stopped for these only while its loss shows that nothing was learnt, and after three samples in a row beyond a threshold: the norm of the whole gradient against that of its own first steps, and the first layer’s over the largest of any."),
    el("div", { id: "dead" }),
    scroll("Gradient norms by layer", table([th("layer"), th("norm", "n"), th("")], norms.map(([name, norm]) => tr(
      td("wrap", el("code", {}, name)), td("n", known(norm) ? norm.toExponential(2) : "not finite"),
      td("gauge", norm > 0 ? bar(0.02 + 0.98 * normAt(norm)) : null))))));
}

// The histories of layers, "gradients" or "dead", as a matrix of layers and steps.
function byStep(c, what) {
  const layers = (c.layers ?? []).filter((layer) => layer[what]?.length);
  const steps = [...new Set(layers.flatMap((layer) => layer[what].map(([step]) => step)))].sort((a, b) => a - b);
  return { names: layers.map((layer) => layer.name), steps, rows: layers.map((layer) => { const by = new Map(layer[what]); return steps.map((step) => by.get(step) ?? null); }) };
}

// Where a monitor found a failure.
const stepLine = (c) => known(c.health?.step) ? [{ type: "line", x0: c.health.step, x1: c.health.step, yref: "paper", y0: 0, y1: 1, line: { color: css("warn"), width: 2 } }] : [];

function drawHeat(node, c, { names, steps, rows }, name, trace, bar) {
  node.style.height = `${Math.min(620, 110 + 16 * names.length)}px`;
  draw(node, `${name} of ${plural(names.length, "layer")} over ${plural(steps.length, "step")}`, [{
    type: "heatmap", x: steps, y: names.map(escaped), customdata: rows, ...trace,
    colorbar: { thickness: 12, tickfont: font(11), outlinewidth: 0, ...bar },
  }], {
    xaxis: axis("step of training"), yaxis: { ...axis(""), autorange: "reversed", type: "category", automargin: true, tickfont: font(10.5), ticks: "" },
    margin: { l: 140, r: 10, t: 6, b: 42 }, shapes: stepLine(c),
  });
}

function drawNorms(c) {
  if (!$("norms")) return;
  const norms = byStep(c, "gradients"), dead = byStep(c, "dead");
  if (!norms.names.length) return;
  drawHeat($("norms"), c, norms, "Gradient norms", {
    z: norms.rows.map((row) => row.map((norm) => norm > 0 ? Math.log10(norm) : null)), hovertemplate: "%{y}, step %{x}: %{customdata:.2e}<extra></extra>",
    zmin: Math.log10(NORMS[0]), zmax: Math.log10(NORMS[1]), colorscale: NORM_COLOURS.map((colour, i) => [i / 6, colour]),
  }, { title: { text: "norm", font: font(11.5) }, tickvals: [-8, -6, -4, -2, 0, 2], ticktext: ["1e-8", "1e-6", "1e-4", "0.01", "1", "100"] });
  drawNormLines(c, norms);
  if (!dead.names.length) return fill("dead", fine(known(c.health?.dead_units) ? "Dead units: none was seen. A unit is dead where no sample of a batch gives it a gradient." : "Dead units are not known of this network: none of its layers has a bias, or they were not recorded."));
  fill("dead", el("h3", {}, "Dead units", el("small", {}, "the fraction of a layer’s units that no sample of a batch gave a gradient (at the first step also of branches that start at zero); layers that never had some are left out")), el("div", {}));
  return drawHeat($("dead").lastChild, c, dead, "Dead units", {
    z: dead.rows, hovertemplate: "%{y}, step %{x}: %{z:.1%}<extra></extra>", zmin: 0, zmax: 1, colorscale: [[0, css("card")], [1, css("warn")]],
  }, { title: { text: "dead", font: font(11.5) }, tickformat: ".0%" });
}

// The two figures that a training is judged by, with the thresholds of each.
function drawNormLines(c, { steps, rows }) {
  const node = $("norm-lines"), last = rows.length - 1;
  const whole = steps.map((_, i) => Math.hypot(...rows.map((row) => row[i] ?? 0)) || null);
  const inlet = steps.map((_, i) => known(rows[0][i]) ? rows[0][i] / Math.max(...rows.map((row) => row[i] ?? 0)) || null : null);
  const lines = [["whole gradient", whole, COLOURS[theme()][0], c.health?.exploding, "exploding"]];
  if (last > 0) lines.push(["first layer over the largest", inlet, COLOURS[theme()][1], c.health?.vanishing, "vanishing"]);
  const values = span([...whole, ...inlet, ...lines.map(([, , , at]) => at)].filter((v) => v > 0));
  node.style.height = "240px";
  draw(node, `Norm of the whole gradient over ${plural(steps.length, "step")}, and that of the first layer over the largest, with their thresholds`,
    lines.map(([name, y, colour]) => ({ type: "scatter", mode: "lines+markers", name, x: steps, y, line: { color: colour, width: 1.6 }, marker: { size: 3 }, hovertemplate: `${name}, step %{x}: %{y:.2e}<extra></extra>` })), {
      xaxis: axis("step of training"), yaxis: { ...axis("norm, ratio"), type: "log", exponentformat: "power", nticks: 6, range: [Math.log10(values.low) - 0.4, Math.log10(values.high) + 0.6] },
      showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: font(11.5) }, margin: { l: 62, r: 12, t: 26, b: 40 },
      shapes: [...stepLine(c), ...lines.filter(([, , , at]) => known(at)).map(([, , colour, at]) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: at, y1: at, line: { dash: "dash", width: 1.4, color: colour } }))],
      annotations: lines.filter(([, , , at]) => known(at)).map(([, , , at, word]) => ({ xref: "paper", x: 0.99, xanchor: "right", y: Math.log10(at), yanchor: "bottom", showarrow: false, font: font(11), text: word === "vanishing" ? "vanishing: below" : "exploding: above" })),
    });
}

function differences(own, c) {
  const base = own.list.find((other) => other.family === c.family && other.origin === "baseline");
  if (!base || base.number === c.number) return null;
  const names = [...new Set([...Object.keys(base.config), ...Object.keys(c.config)])].sort();
  const rows = names.filter((name) => setting(base.config[name]) !== setting(c.config[name]));
  const metrics = own.facts.shown.filter((name) => known(base.metrics[name]) && known(c.metrics[name]));
  return card(["Against its family’s baseline", el("small", {}, `#${base.number}`)],
    el("div", { class: "sideways" }, table([th(""), th(`#${base.number}`), th(`#${c.number}`)], [
      ...metrics.map((name) => tr(td("wrap", label(name)), td(null, metricText(base, name)), td(null, metricText(c, name)))),
      ...rows.map((name) => tr(td("wrap", el("code", {}, name)), td(null, setting(base.config[name])), td(null, setting(c.config[name])))),
    ])), rows.length ? null : fine("It has the same configuration."));
}

// ---- the ways out ---------------------------------------------------------------------------------

// A word of a command as a shell reads it.
const quoted = (word) => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

// What can be made of a candidate, with the command of each; what is quick can be saved here too.
function exportPart(own, c) {
  if (c.state !== "complete" || !own.head.folder) return null;
  const run = quoted(own.head.folder), place = `${own.head.folder}/models/${c.number}`;
  const recipe = `nas export ${run} -n ${c.number} --out recipe-${c.number}.yaml`;
  const train = `${recipe} && nas train recipe-${c.number}.yaml --out ${quoted(place)}`;
  const ways = [
    ["Recipe", recipe, c.recipe || isLive() ? () => saveRecipe(own, c) : null],
    ["Design document", `nas export ${run} -n ${c.number} --design design-${c.number}`, isLive() ? () => saveMade(own, c, "design.html", `design-${c.number}.html`) : null],
    c.trained || c.kept ? ["Predictions", `nas predict ${run} NEW_DATA -n ${c.number}`, null] : null,
    c.trained ? null : ["Training", train, null],
    ["Standalone folder", `nas export ${run} -n ${c.number} --standalone network-${c.number}`, null],
    ["ONNX", `nas export ${run} -n ${c.number} --onnx network-${c.number}.onnx`, null],
  ].filter(Boolean);
  return card(["Export", el("small", {}, "each by a command on the machine of the search")],
    el("ul", { class: "ways" }, ways.map(([name, command, make]) => el("li", {},
      el("b", {}, name), el("code", { tabindex: 0 }, command),
      el("button", { type: "button", "aria-label": `Copy the command for: ${name}`, onclick: (event) => copy(command, event.target) }, "Copy"),
      make ? el("button", { type: "button", "aria-label": `Save: ${name}`, onclick: (event) => saving(event.target, make) }, "Save") : null))),
    el("p", { class: "warn", id: "export-error", role: "status" }),
    c.trained ? null : fine(c.kept ? "Predictions, a standalone folder and ONNX use the weights that the search has kept, until it is trained in full." : "A standalone folder and ONNX hold a trained network: train this one first."));
}

async function copy(text, button) {
  const code = button.parentNode.querySelector("code");
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } catch { // without https, or refused: the text is selected for the user to copy
    getSelection().selectAllChildren(code);
  }
}

async function saving(button, make) {
  say($("export-error"), "");
  Object.assign(button, { disabled: true, textContent: "Making it …" });
  try {
    await make();
  } catch (error) {
    say($("export-error"), error.message.trim());
  }
  Object.assign(button, { disabled: false, textContent: "Save" });
}

const saveRecipe = (own, c) => c.recipe ? save(`recipe-${c.number}.yaml`, c.recipe, "application/yaml") : saveMade(own, c, "recipe.yaml", `recipe-${c.number}.yaml`);

async function saveMade(own, c, what, name) { // by the dashboard
  const answer = await fetch(`api/studies/${own.id}/candidates/${c.number}/${what}`);
  if (!answer.ok) throw new Error(await answer.text());
  save(name, await answer.blob());
}

function mountCandidate() {
  $("candidate-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const number = Number($("candidate-number").value);
    if (study().byNumber.has(number)) open(number);
    else $("candidate-number").setCustomValidity(`there is no candidate ${number}`);
    $("candidate-number").reportValidity();
  });
  $("candidate-number").addEventListener("input", (event) => event.target.setCustomValidity(""));
}
