// What the user has chosen, kept apart from the data, so that an update changes none of it; and the
// same in the address after "#", so that a link shares it.

const MOST_PICKS = 4;
const view = {
  page: "explorer",
  study: null, // the id of the one that is shown
  wanted: null, // the id of the one that the address names, until it comes
  laid: [], // the ids of those whose fronts are laid over one another
  limits: new Map(), // "metric op": bound, or null for any; those that were moved from the task's
  hidden: new Set(), // families
  filter: "", filterError: "", matches: null,
  brush: null, // { x, y, points }: a lasso in the units of these two measures
  picks: [], candidate: null,
  axes: null, // [[x, y], [x, y]]; null for quality against latency and parameters
  colour: "family", size: "",
  rows: "front", sort: { key: null, down: false }, below: false,
  drag: "zoom",
};

const study = () => studies.get(view.study);

// ---- what follows from it -----------------------------------------------------------------------

function limitsOf(own) {
  const { objectives, constraints } = own.head;
  const wanted = [
    ...constraints.map((c) => ({ ...c })),
    ...objectives.map((o) => ({ metric: o.metric, op: o.direction === "min" ? "<=" : ">=", bound: null })),
  ];
  const found = new Map();
  for (const { metric, op, bound } of wanted) {
    const key = `${metric} ${op}`;
    if (!found.has(key)) found.set(key, { key, metric, op, task: bound, bound: view.limits.has(key) ? view.limits.get(key) : bound });
  }
  return [...found.values()];
}

// Whether a candidate is among those that the filters let through.
function isKept(candidate) {
  return !view.hidden.has(candidate.family) && (!view.matches || view.matches(candidate));
}

function isBrushed(candidate) {
  const { brush } = view;
  if (!brush) return true;
  const x = measure(candidate, brush.x), y = measure(candidate, brush.y);
  if (!known(x) || !known(y)) return false;
  let within = false; // rays: a point is inside where it crosses the outline an odd number of times
  for (let i = 0, j = brush.points.length - 1; i < brush.points.length; j = i++) {
    const [ax, ay] = brush.points[i], [bx, by] = brush.points[j];
    if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) within = !within;
  }
  return within;
}

let explored = { key: null };
function current() { // of the study that is shown, inside the limits and filters
  const own = study(), limits = limitsOf(own);
  const key = JSON.stringify([own.id, own.revision, limits.map((l) => l.bound), [...view.hidden], view.filter]);
  if (explored.key !== key) {
    explored = { key, limits, ...explore(own, limits, isKept) };
    let noisy = null; // only when somebody asks
    Object.defineProperty(explored, "noisy", { get: () => noisy ??= noisyPoints(own, explored.front) });
  }
  return explored;
}

function defaultAxes(own) {
  const { quality, objectives } = own.head, { metrics } = own.facts;
  const wanted = [...new Set(["latency_ms", "params", ...objectives.map((o) => o.metric)])]
    .filter((name) => name !== quality.metric && (metrics.includes(name) || !metrics.length));
  return wanted.slice(0, 2).map((x) => [x, quality.metric]);
}
const axesOf = (own) => view.axes ?? defaultAxes(own);

function setFilter(text) {
  view.filter = text;
  view.matches = null;
  view.filterError = "";
  if (!text.trim()) return;
  try {
    view.matches = parseFilter(text, filterNames(study()));
  } catch (error) {
    view.filterError = error.message;
  }
}

function pick(number) {
  const at = view.picks.indexOf(number);
  if (at >= 0) view.picks.splice(at, 1);
  else view.picks = [...view.picks, number].slice(-MOST_PICKS);
  changed("picks");
}

function open(number) { // the page of a candidate
  view.candidate = number;
  view.page = "candidate";
  changed("page");
}

// ---- the address ----------------------------------------------------------------------------------

const digits = (value) => Number(value.toPrecision(6));
function toHash() {
  const parts = new URLSearchParams(), own = study();
  const put = (name, value) => { if (value) parts.set(name, value); };
  put("page", view.page);
  if (studies.size > 1) put("study", view.study);
  put("with", view.laid.join(","));
  put("limits", [...view.limits].map(([key, bound]) => `${key} ${bound ?? "any"}`).join(";"));
  put("hide", [...view.hidden].join("|"));
  put("filter", view.filter);
  if (view.brush) put("lasso", [view.brush.x, view.brush.y, ...view.brush.points.flat().map(digits)].join(","));
  put("pick", view.picks.join(","));
  if (view.candidate !== null) put("candidate", String(view.candidate));
  if (own?.head && view.axes) put("axes", view.axes.flat().join(","));
  if (view.colour !== "family") put("colour", view.colour);
  put("size", view.size);
  if (view.rows !== "front") put("rows", view.rows);
  if (view.sort.key) put("sort", `${view.sort.key}${view.sort.down ? ",down" : ""}`);
  put("below", view.below ? "1" : "");
  return `#${parts}`;
}

const PAGES = ["studies", "explorer", "candidate", "why", "machine"];
function fromHash() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const list = (name, by = ",") => parts.get(name)?.split(by) ?? [];
  const numbers = (name) => list(name).map(Number).filter((n) => Number.isInteger(n) && n >= 0);
  view.page = PAGES.includes(parts.get("page")) ? parts.get("page") : "explorer";
  view.laid = list("with"); // some may come later
  const named = isLive() ? parts.get("study") : null, isThere = Boolean(studies.get(named)?.head);
  view.wanted = named && !isThere ? named : null;
  if (view.wanted) return; // the rest is said of that study, and read when it comes
  if (named) view.study = named;
  view.limits = new Map(list("limits", ";").map((text) => text.match(/^(\S+ [<>]=) (\S+)$/)).filter(Boolean)
    .map(([, key, bound]) => [key, bound === "any" || !known(Number(bound)) ? null : Number(bound)]));
  view.hidden = new Set(list("hide", "|"));
  setFilter(parts.get("filter") ?? "");
  const [x, y, ...flat] = list("lasso"), outline = flat.map(Number);
  view.brush = outline.length >= 6 && outline.every(known)
    ? { x, y, points: Array.from({ length: outline.length >> 1 }, (_, i) => [outline[2 * i], outline[2 * i + 1]]) } : null;
  view.picks = numbers("pick").slice(0, MOST_PICKS);
  view.candidate = numbers("candidate")[0] ?? null;
  const axes = list("axes");
  view.axes = axes.length === 4 ? [axes.slice(0, 2), axes.slice(2)] : null;
  view.colour = parts.get("colour") ?? "family";
  view.size = parts.get("size") ?? "";
  view.rows = ["front", "feasible", "all"].includes(parts.get("rows")) ? parts.get("rows") : "front";
  const [key, down] = list("sort");
  view.sort = { key: key ?? null, down: down === "down" };
  view.below = parts.get("below") === "1";
}

let written = "";
const writeHash = debounced(150, () => {
  if (!study()?.head || view.wanted) return; // what a link says is not read yet
  const hash = toHash();
  if (hash === written) return;
  // A page is a step of the browser's history; a limit that moved is none.
  const samePage = new URLSearchParams(written.slice(1)).get("page") === view.page;
  history[samePage || !written ? "replaceState" : "pushState"](null, "", hash);
  written = hash;
});

// ---- drawing again ---------------------------------------------------------------------------------

// What has changed since the page was last drawn: "data", "limits", "picks", "rows", "plots", "page"
// or "theme". Moves in between two frames are skipped.
let pending = null;
function changed(...what) {
  if (!pending) {
    pending = new Set();
    requestAnimationFrame(() => {
      const now = pending;
      pending = null;
      drawPage(now);
      writeHash();
    });
  }
  for (const each of what) pending.add(each);
}
