// The page "Studies": how far each is, and the fronts of those that are ticked over one another.

function drawStudies() {
  const all = [...studies.values()].filter((own) => own.head);
  keyed($("studies-list"), all, (own) => own.id, (own) => el("tr", {},
    el("td", {}, el("input", { type: "checkbox", onchange: (event) => {
      view.laid = event.target.checked ? [...view.laid, own.id] : view.laid.filter((id) => id !== own.id);
      changed("data");
    } })),
    el("th", { scope: "row" }, el("button", { type: "button", class: "link", onclick: () => showStudy(own.id, "explorer") })),
    Array.from({ length: 6 }, (_, i) => el("td", { class: i > 0 ? "n" : null }))), studyRow);
  const agree = all.filter((own) => view.laid.includes(own.id) || all.length === 1 || (!view.laid.length && own.id === view.study));
  drawVolumes(agree);
}

function studyRow(node, own) {
  const box = node.querySelector("input"), { head, facts } = own, { metric } = head.quality;
  box.checked = view.laid.includes(own.id);
  box.setAttribute("aria-label", `Lay the front of ${head.name} over the others`);
  say(node.querySelector("button"), head.name);
  const { front } = withStudy(own, () => explore(own, head.constraints, () => true));
  const best = front[0], simple = facts.simple[0], hours = (kind) => own.list.reduce((sum, c) => sum + c.seconds * c[kind], 0) / 3600;
  const text = (value) => withStudy(own, () => show(metric, value));
  const cells = [
    own.live?.state ?? "as it was baked",
    `${count(facts.complete.length)} of ${count(own.list.length)}`,
    best ? `${label(metric)} ${text(best.metrics[metric])}` : "–",
    simple && known(simple.metrics[metric]) ? `${simple.name} ${text(simple.metrics[metric])}` : "–",
    duration(own.live?.seconds ?? head.seconds),
    [["CPU", hours("cpus")], ["GPU", hours("gpus")]].filter(([, h]) => h > 0).map(([name, h]) => `${h.toPrecision(3)} ${name}-h`).join(", ") || "–",
  ];
  [...node.children].slice(2).forEach((cell, i) => say(cell, cells[i]));
}

// Calls with a study as the one that is shown, on which labels and figures depend.
function withStudy(own, call) {
  const before = view.study;
  view.study = own.id;
  try { return call(); } finally { view.study = before; }
}

function showStudy(id, page) {
  if (id !== view.study) Object.assign(view, { study: id, limits: new Map(), picks: [], candidate: null, axes: null, brush: null, hidden: new Set(), colour: "family", size: "" });
  view.wanted = null;
  setFilter(view.filter);
  view.page = page;
  changed("page", "data");
}

// Hypervolumes are compared only where task and objectives are the same.
function drawVolumes(owns) {
  const identity = ({ head }) => JSON.stringify([head.profile.fingerprint, head.profile.split, head.objectives]);
  const same = owns.filter((own) => own.facts.ranked.length && identity(own) === identity(owns[0]));
  const node = $("volumes"), left = owns.length - same.length;
  say($("volumes-note"), [
    "The part of a box that the front dominates: from the best of each objective to the worst, of the quality to a constant guess; costs by their logarithm.",
    left > 0 && owns.length > 1 ? `${plural(left, "study")} of other data, another split or other objectives left out.`.replace("studys", "studies") : "",
  ].filter(Boolean).join(" "));
  if (!same.length) { drawVolumes.drawn = ""; purge(node); return fill(node, note("No complete candidate yet.")); }
  const key = JSON.stringify([same.map((own) => [own.id, own.revision]), isDark()]);
  if (drawVolumes.drawn === key) return undefined;
  drawVolumes.drawn = key;
  const box = commonBox(same), histories = same.map((own) => hypervolumeHistory(own, box));
  const last = Math.max(...histories.flat().map(([at]) => at)), [unit, size] = last > 7200 ? ["h", 3600] : last > 120 ? ["min", 60] : ["s", 1];
  if (!node.firstChild?.classList?.contains("plot-plain")) fill(node, el("div", { class: "plot-plain" }));
  draw(node.firstChild, `Hypervolume over time of ${same.map((own) => own.head.name).join(", ")}`, histories.map((history, i) => ({
    type: "scatter", mode: "lines", name: escaped(same[i].head.name), x: history.map(([at]) => at / size), y: history.map(([, volume]) => volume),
    line: { shape: "hv", width: 2, color: COLOURS[theme()][i % 8], dash: DASHES[i % 4] },
  })), {
    xaxis: { ...axis(`time of training, pauses left out (${unit})`), rangemode: "tozero" }, yaxis: { ...axis("hypervolume (fraction)"), rangemode: "tozero" },
    showlegend: same.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
  });
  return undefined;
}
