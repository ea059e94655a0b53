// The page "Machine": what each worker did when, and what is left of the budget.

const OUTCOMES = [["complete", "complete"], ["pruned", "pruned"], ["failed", "failed"], ["cut off", "cut"], ["running", "running"]];

function drawMachine() {
  const own = study();
  drawLanes(own);
  drawBudget(own);
}

const MOST_BARS = 4000;
function drawLanes(own) {
  const ran = own.list.filter((c) => c.started > 0 && c.worker >= 0), node = $("lanes");
  $("no-lanes").hidden = ran.length > 0;
  node.hidden = !ran.length;
  if (!ran.length) return;
  say($("lanes-note"), `${ran.length > MOST_BARS ? `the latest ${count(MOST_BARS)} of ${count(ran.length)} candidates; ` : ""}click one to open it`);
  // A candidate in training has no seconds yet: its bar grows, but not once its search was killed.
  const now = own.live?.state === "running" ? own.live.now : Math.max(...ran.map((c) => c.started + c.seconds));
  drawnFor(node, [own.id, own.revision, Math.floor(now / 5)], () => {
    const begin = Math.min(...ran.map((c) => c.started)), last = now - begin;
    const [unit, size] = last > 7200 ? ["h", 3600] : last > 120 ? ["min", 60] : ["s", 1];
    const latest = ran.slice(-MOST_BARS), workers = [...new Set(ran.map((c) => c.worker))].sort((a, b) => a - b);
    const length = (c) => c.state === "running" ? Math.max(0, now - c.started) : c.seconds;
    const traces = OUTCOMES.map(([state, tone]) => [state, tone, latest.filter((c) => c.state === state)]).filter(([, , own]) => own.length)
      .map(([state, tone, bars]) => ({
        type: "bar", orientation: "h", name: state, base: bars.map((c) => (c.started - begin) / size), x: bars.map((c) => length(c) / size),
        y: bars.map((c) => `worker ${c.worker}`), marker: { color: css(`state-${tone}`), line: { width: bars.length < 600 ? 1 : 0, color: css("card") } },
        text: bars.map((c) => `#${c.number} ${escaped(c.family)}${c.reason ? ` (${c.reason})` : ""}, ${duration(length(c))}`), textposition: "none",
        hovertemplate: "%{text}<extra></extra>", customdata: bars.map((c) => c.number),
      }));
    node.style.height = `${Math.max(180, 90 + 26 * Math.min(workers.length, 40))}px`;
    const fresh = !node.data;
    draw(node, `Workers over time: ${plural(workers.length, "worker")}, ${plural(ran.length, "candidate")}`, traces, {
      barmode: "overlay", bargap: 0.25, xaxis: axis(`time since the first candidate (${unit})`),
      yaxis: { ...axis(""), categoryorder: "array", categoryarray: workers.map((w) => `worker ${w}`).reverse(), ticks: "" },
      margin: { l: 84, r: 12, t: 30, b: 44 }, showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    });
    if (fresh) node.on("plotly_click", (event) => open(event.points[0].customdata));
  });
}

// What a budget of trials counts: each root once, no duplicates, none that waits to be trained again.
function trialsOf(own) {
  const counted = own.list.filter((c) => !["running", "cut off"].includes(c.state) && c.reason !== "duplicate");
  return new Set(counted.map((c) => c.root)).size;
}

// What is left, as a range: by the mean pace so far, and by that of the slower and faster half.
function forecast(own, used, limit) {
  const done = own.list.filter((c) => c.state !== "running" && c.seconds > 0), spent = own.live?.seconds ?? own.head.seconds;
  if (done.length < 8 || !(used > 0) || !(spent > 0)) return "";
  const paces = done.map((c) => c.seconds).sort((a, b) => a - b), mean = paces.reduce((a, b) => a + b, 0) / paces.length;
  const quarter = (q) => paces[Math.floor(q * (paces.length - 1))] / mean, left = Math.max(0, spent * (limit / used - 1));
  return left ? `about ${duration(left * Math.min(1, Math.max(0.5, quarter(0.25))))} to ${duration(left * Math.max(1, Math.min(2, quarter(0.75))))} left` : "spent";
}

// By model of device: how busy it was while candidates were trained, the mean over their seconds.
function deviceUse(own) {
  const models = new Map();
  for (const c of own.list) if (c.device) models.set(c.device, [...models.get(c.device) ?? [], c]);
  return [...models].map(([model, candidates]) => {
    const measured = candidates.filter((c) => known(c.use) && c.seconds > 0), seconds = measured.reduce((sum, c) => sum + c.seconds, 0);
    const mean = measured.reduce((sum, c) => sum + c.use * c.seconds, 0) / seconds;
    const of = candidates[0].gpus ? "as it reports, other work included" : "of one core by each training";
    return [model, seconds ? `${Math.round(100 * mean)} % busy ${of}; ${plural(candidates.length, "candidate")}` : `${plural(candidates.length, "candidate")}; it does not report how busy it was`];
  });
}

function drawBudget(own) {
  const { budget } = own.head, spent = own.live?.seconds ?? own.head.seconds;
  const hours = (kind) => own.list.reduce((sum, c) => sum + c.seconds * c[kind], 0) / 3600;
  const trials = trialsOf(own), front = current().front.length;
  const rows = [
    budget.time_limit_s !== null && ["time", duration(spent), duration(budget.time_limit_s), spent, budget.time_limit_s, spent < budget.time_limit_s ? `${duration(budget.time_limit_s - spent)} left` : "spent"],
    budget.trials !== null && ["candidates", count(trials), count(budget.trials), trials, budget.trials, forecast(own, trials, budget.trials)],
    budget.cpu_hours !== null && ["CPU-hours", hours("cpus").toPrecision(3), String(budget.cpu_hours), hours("cpus"), budget.cpu_hours, forecast(own, hours("cpus"), budget.cpu_hours)],
    budget.gpu_hours !== null && ["GPU-hours", hours("gpus").toPrecision(3), String(budget.gpu_hours), hours("gpus"), budget.gpu_hours, forecast(own, hours("gpus"), budget.gpu_hours)],
  ].filter(Boolean);
  fill("budget", table([th("budget"), th("used", "n"), th("of", "n"), th(""), th("forecast")], rows.map(([name, used, limit, a, b, words]) => tr(
    el("th", { scope: "row" }, name), td("n", used), td("n", limit), td("gauge", bar(Math.min(1, a / b))), td("wrap", words)))));
  const kinds = [["CPU", hours("cpus")], ["GPU", hours("gpus")]].filter(([, h]) => h > 0);
  const trained = own.list.reduce((sum, c) => sum + c.seconds, 0), lanes = new Set(own.list.filter((c) => c.worker >= 0).map((c) => c.worker)).size;
  fill("machine-facts", facts([
    ["workers", `${own.head.workers} on ${own.head.device}`],
    ["training", `${duration(trained)} on all workers together`],
    ["busy", lanes && spent ? `${Math.round(100 * Math.min(1, trained / spent / lanes))} % of the workers’ time went into candidates` : ""],
    ...deviceUse(own),
    ["device-hours", kinds.map(([name, h]) => `${h.toPrecision(3)} ${name}-hours`).join(", ")],
    ["per point of the front", front ? kinds.map(([name, h]) => `${(h / front).toPrecision(3)} ${name}-hours`).join(", ") : ""],
  ]));
}
