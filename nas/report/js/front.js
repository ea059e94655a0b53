// Feasibility, fronts and hypervolume: the same definitions as nas.front.

const signed = (objective) => objective.direction === "min" ? 1 : -1;
const byQualityFirst = ({ objectives, quality }) =>
  [...objectives.filter((o) => o.metric === quality.metric), ...objectives.filter((o) => o.metric !== quality.metric)];

function lexicographic(p, q) {
  for (let i = 0; i < p.length; i++) if (p[i] !== q[i]) return p[i] - q[i];
  return 0;
}

// The candidates in the order in which a front is swept: costs compared one after the other.
function inFrontOrder(candidates, head) {
  const objectives = byQualityFirst(head);
  const rows = candidates.map((c) => ({ c, costs: objectives.map((o) => signed(o) * c.metrics[o.metric]) }));
  rows.sort((p, q) => lexicographic(p.costs, q.costs));
  for (const { c, costs } of rows) Object.defineProperty(c, "costs", { value: costs, enumerable: false, configurable: true, writable: true });
  return rows.map((row) => row.c);
}

// The non-dominated of candidates in front order; equal ones are all kept.
function paretoFront(ordered) {
  const front = [];
  next: for (const c of ordered) {
    for (let k = front.length - 1; k >= 0; k--) { // the latest are the nearest: they dominate most
      const other = front[k].costs;
      let worse = false, equal = true;
      for (let i = 0; i < other.length; i++) {
        if (other[i] > c.costs[i]) { worse = true; break; }
        if (other[i] !== c.costs[i]) equal = false;
      }
      if (!worse && !equal) continue next; // dominated
    }
    front.push(c);
  }
  return front;
}

const inside = (candidate, limits) => {
  for (const { metric, op, bound } of limits) {
    if (bound === null) continue;
    const value = candidate.metrics[metric];
    if (!(op === "<=" ? value <= bound : value >= bound)) return false;
  }
  return true;
};

// What is feasible and on the front among the ranked candidates that `keep` lets through.
function explore(own, limits, keep) {
  const feasible = own.facts.ranked.filter((c) => keep(c) && inside(c, limits));
  const useful = feasible.filter((c) => !c.guess); // clearly better than a constant prediction
  const front = paretoFront(useful.length ? useful : feasible);
  return { feasible, isFeasible: new Set(feasible), front, isOnFront: new Set(front) };
}

// ---- how sure the figures are -------------------------------------------------------------------

const better = (head, a, b) => head.quality.direction === "min" ? a < b : a > b;

// Those that are worse than the best simple model; none without one.
function belowSimple(head, simple, candidates) {
  const { metric } = head.quality, level = simple[0]?.metrics[metric];
  if (!known(level)) return new Set();
  // Networks are scored in single precision, so that equal figures differ in the eighth digit.
  const line = level + signed(head.quality) * 1e-6 * Math.abs(level);
  return new Set(candidates.filter((c) => better(head, line, c.metrics[metric])));
}
const isBelowSimple = (own, candidate) => own.facts.below.has(candidate);

// Those of the candidates whose quality is within one standard error of the best one's.
function withinNoise(own, best, candidates) {
  const { metric } = own.head.quality, error = best.error ?? 0, value = best.metrics[metric];
  return candidates.filter((c) => Math.abs(c.metrics[metric] - value) <= error);
}

// The points of a front that another one equals within noise and clearly beats in one objective, with
// that other one (nas.front.within_noise). Noise is one standard error of each quality, the spread of a
// latency, and nothing of a count.
function noisyPoints(own, front) {
  const objectives = own.head.objectives, { quality } = own.head;
  const noise = (c, { metric }) => metric === "latency_ms" ? c.spread ?? 0 : metric === quality.metric ? c.error ?? 0 : c.errors[metric] ?? 0;
  const found = new Map(), left = new Set(front);
  for (const c of front.slice(1)) for (const other of left) {
    if (other === c) continue;
    let gains = false, loses = false;
    for (const o of objectives) {
      const gain = signed(o) * (c.metrics[o.metric] - other.metrics[o.metric]), unsure = Math.max(noise(c, o), noise(other, o));
      if (gain > unsure) gains = true;
      if (-gain > unsure) { loses = true; break; }
    }
    if (gains && !loses) { found.set(c, other); left.delete(c); break; }
  }
  return found;
}

// ---- hypervolume ----------------------------------------------------------------------------------

// The volume that points dominate below a reference, by slicing along the last cost (nas.front).
function hypervolume(points, reference) {
  const below = points.filter((p) => p.every((cost, i) => cost < reference[i]));
  if (!below.length) return 0;
  if (reference.length === 1) return reference[0] - Math.min(...below.map(([cost]) => cost));
  if (reference.length === 2) {
    let volume = 0, height = reference[1];
    for (const [x, y] of below.sort((p, q) => p[0] - q[0] || p[1] - q[1])) {
      if (y < height) { volume += (reference[0] - x) * (height - y); height = y; }
    }
    return volume;
  }
  if (reference.length === 3) return volumeOfSlices(below, reference);
  const last = reference.length - 1, sorted = below.sort((p, q) => p[last] - q[last]);
  let volume = 0;
  sorted.forEach((point, i) => {
    const depth = (sorted[i + 1]?.[last] ?? reference[last]) - point[last];
    if (depth > 0) volume += depth * hypervolume(sorted.slice(0, i + 1).map((p) => p.slice(0, last)), reference.slice(0, last));
  });
  return volume;
}

// The same for three costs: the area grows from slice to slice, and its steps are kept in order.
function volumeOfSlices(points, [right, top, deep]) {
  points.sort((p, q) => p[2] - q[2]);
  let steps = [], volume = 0; // the non-dominated [x, y] so far, x rising and y falling
  points.forEach(([x, y, z], i) => {
    if (!steps.some(([a, b]) => a <= x && b <= y)) {
      const at = steps.findIndex(([a]) => a >= x), before = at < 0 ? steps : steps.slice(0, at);
      steps = [...before, [x, y], ...(at < 0 ? [] : steps.slice(at)).filter(([, b]) => b < y)];
    }
    const depth = (points[i + 1]?.[2] ?? deep) - z;
    if (!(depth > 0)) return;
    let area = 0, height = top;
    for (const [a, b] of steps) { area += (right - a) * (height - b); height = b; }
    volume += depth * area;
  });
  return volume;
}

// The box in which hypervolumes of studies are measured: costs that span decades by their logarithm,
// from the best of all to the worst; a quality from the best to a constant guess.
function commonBox(owns) {
  const { head } = owns[0];
  return byQualityFirst(head).map((o) => {
    const factor = signed(o), isQuality = o.metric === head.quality.metric;
    const values = owns.flatMap((own) => own.facts.ranked.map((c) => c.metrics[o.metric]));
    const { low, high, log } = span(values), scaled = log && !isQuality ? Math.log10 : (v) => v;
    const ends = [scaled(low), scaled(high)].map((v) => factor * v).sort((a, b) => a - b);
    if (isQuality && known(head.guess) && factor * head.guess > ends[0]) ends[1] = factor * head.guess;
    return { metric: o.metric, at: (v) => (factor * scaled(v) - ends[0]) / (ends[1] - ends[0] || 1) };
  });
}

// The hypervolume when each of at most 60 moments was over: [seconds of training, fraction].
function hypervolumeHistory(own, box) {
  const when = clock(own.list), done = own.facts.ranked.filter((c) => inside(c, own.head.constraints));
  const points = done.filter((c) => !c.guess).map((c) => ({ at: when(c), costs: box.map((o) => o.at(c.metrics[o.metric])) }));
  points.sort((p, q) => p.at - q.at);
  // Scaled costs are clipped to the box: the reference then is its corner, and the unit its volume.
  const reference = box.map(() => 1 + 1e-9);
  const every = Math.max(1, Math.ceil(points.length / 60)), history = [];
  let front = [];
  points.forEach(({ at, costs }, i) => {
    const row = { costs };
    if (!front.some((p) => p.costs.every((cost, k) => cost <= costs[k]))) front = [...front.filter((p) => !costs.every((cost, k) => cost <= p.costs[k])), row];
    if (i % every === every - 1 || i === points.length - 1) history.push([at, hypervolume(front.map((p) => p.costs), reference)]);
  });
  return history;
}

// The hypervolume by how many candidates had ended: [number, fraction], at no more than 60 of them.
function hypervolumeByNumber(own, box) {
  const ended = own.list.filter((c) => c.state !== "running").sort((p, q) => p.started + p.seconds - q.started - q.seconds || p.number - q.number);
  const counts = new Set(own.facts.ranked.filter((c) => !c.guess && inside(c, own.head.constraints)));
  const every = Math.max(1, Math.ceil(ended.length / 60)), reference = box.map(() => 1), history = [];
  let front = [], moved = true, volume = 0;
  ended.forEach((c, i) => {
    if (counts.has(c)) {
      const costs = box.map((o) => o.at(c.metrics[o.metric]));
      if (!front.some((p) => p.every((cost, k) => cost <= costs[k]))) {
        front = [...front.filter((p) => !costs.every((cost, k) => cost <= p[k])), costs];
        moved = true;
      }
    }
    if (i % every !== every - 1 && i < ended.length - 1) return;
    if (moved) volume = hypervolume(front, reference); // most of the time of a long search it stays
    moved = false;
    history.push([i + 1, volume]);
  });
  return history;
}

// The box of nas/report/chance.py.
const boxOfChance = (sides) => sides.map(({ metric, sign: factor, log, low, high }) =>
  ({ metric, at: (v) => Math.max(0, (factor * (log ? Math.log10(v) : v) - low) / (high - low || 1)) }));

// How long the search had trained when a candidate ended: pauses until it was resumed are left out.
function clock(candidates) {
  const spans = [];
  for (const c of candidates.filter((c) => c.started > 0).sort((p, q) => p.started - q.started)) {
    const open = spans.at(-1), end = c.started + c.seconds;
    if (open && c.started <= open.end) open.end = Math.max(open.end, end);
    else spans.push({ begin: c.started, end, before: open ? open.before + open.end - open.begin : 0 });
  }
  return (c) => {
    const end = c.started + c.seconds;
    let low = 0, high = spans.length - 1; // the last span that begins before the end
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (spans[middle].begin <= end) low = middle;
      else high = middle - 1;
    }
    const found = spans[low];
    return found ? found.before + Math.max(0, Math.min(end, found.end) - found.begin) : 0;
  };
}
