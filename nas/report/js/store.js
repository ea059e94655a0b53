// The studies and their candidates, by number. An update brings a head, columns of candidates that
// are new or have changed, or both; what it does not name stays as it is.

const studies = new Map(); // by id
let revisions = 0; // of all: a study that comes again has none of its earlier ones

class Study {
  constructor(id) {
    this.id = id;
    this.head = null;
    this.byNumber = new Map();
    this.list = []; // by number
    this.details = new Map(); // of candidates that were opened: a promise of each
    this.revision = ++revisions; // grows with every change of the candidates
  }

  apply(update) {
    if (update.reset) Object.assign(this, { byNumber: new Map(), list: [], details: new Map(), live: null, derived: null, revision: ++revisions });
    // Details say what was trained at full scale, which changes with a head.
    if (update.head) Object.assign(this, { head: update.head, details: new Map(), derived: null, revision: ++revisions });
    if (update.live) this.live = { ...this.live, ...update.live };
    if (!update.table?.number.length) return;
    let added = false;
    for (const row of rowsOf(update.table)) {
      const before = this.byNumber.get(row.number);
      if (before) {
        for (const name of Object.keys(before)) delete before[name];
        Object.assign(before, row); // the same object: whoever holds it sees what is new
      } else {
        this.byNumber.set(row.number, row);
        this.list.push(row);
        added = true;
      }
      this.details.delete(row.number);
    }
    if (added) this.list.sort((p, q) => p.number - q.number);
    this.revision = ++revisions;
    this.derived = null;
  }

  // What follows from the candidates alone, and is kept until the next of them comes.
  get facts() {
    if (this.derived) return this.derived;
    const { head } = this;
    const complete = this.list.filter((c) => c.state === "complete");
    const needed = [...head.objectives, ...head.constraints].map((o) => o.metric);
    const ranked = complete.filter((c) => needed.every((name) => known(c.metrics[name])));
    const isRanked = new Set(ranked);
    const families = [...new Set([...Object.keys(head.spaces), ...this.list.map((c) => c.family)])];
    const isQuality = (name) => !head.costs.includes(name);
    const seen = new Set(complete.flatMap((c) => Object.keys(c.metrics)));
    const leading = [head.quality.metric, ...head.objectives.map((o) => o.metric)].filter(isQuality);
    const qualities = [...new Set([...leading, ...[...seen].filter(isQuality)])];
    // Columns: the qualities among the objectives, up to three qualities in all, then the costs.
    const shown = [...qualities.slice(0, Math.max(3, new Set(leading).size)), ...head.costs.filter((name) => seen.has(name))];
    const simple = simpleModels(head), below = belowSimple(head, simple, complete);
    this.derived = {
      complete, below, above: complete.filter((c) => !below.has(c) && known(c.metrics[head.quality.metric])), ranked: inFrontOrder(ranked, head), unmeasured: complete.filter((c) => !isRanked.has(c)), families, shown,
      gpus: [...new Set(this.list.filter((c) => c.gpus && c.device).map((c) => c.device))],
      metrics: [...seen], simple, spans: new Map(),
    };
    return this.derived;
  }

  measures() { // the names of everything numeric that a candidate has
    const settings = new Set();
    for (const { config } of this.facts.complete.slice(0, 500))
      for (const [name, value] of Object.entries(config)) if (known(value)) settings.add(`config.${name}`);
    const { quality, costs } = this.head, seen = this.facts.metrics;
    const first = [quality.metric, ...seen.filter((name) => !costs.includes(name) && name !== quality.metric)];
    return [...first, ...costs.filter((name) => seen.includes(name)), "epochs", "seconds", ...[...settings].sort()];
  }

  spanOf(name) {
    const { spans, complete, simple } = this.facts;
    if (!spans.has(name)) spans.set(name, span([...complete.map((c) => measure(c, name)), ...simple.map((b) => b.metrics[name])]));
    return spans.get(name);
  }
}

// A metric, a parameter as "config.NAME", or one of the row's own numbers.
function measure(candidate, name) {
  if (name === "epochs" || name === "seconds") return candidate[name];
  if (name.startsWith("config.")) return candidate.config[name.slice(7)];
  return candidate.metrics[name];
}

// The rows of a table by column (nas/report/payload.py).
function rowsOf(table) {
  const word = (column, i) => column.words[column.at[i]];
  const guesses = new Set(table.guess), place = {};
  return table.number.map((number, i) => {
    const family = word(table.family, i), at = place[family] = (place[family] ?? -1) + 1;
    const metrics = {}, config = {};
    for (const [name, values] of Object.entries(table.metrics)) if (values[i] !== null) metrics[name] = values[i];
    for (const [name, values] of Object.entries(table.config[family])) if (values[at] !== null) config[name] = values[at];
    return {
      number, root: table.root[i] < 0 ? number : table.root[i], family, state: word(table.state, i), reason: word(table.reason, i), origin: word(table.origin, i),
      epochs: table.epochs[i], planned: table.planned[i], started: table.started[i], seconds: table.seconds[i],
      worker: table.worker[i], device: word(table.device, i), use: table.use[i], cpus: Number(word(table.cpus, i)), gpus: Number(word(table.gpus, i)),
      metrics, config, error: table.error[i], errors: Object.fromEntries(Object.entries(table.errors).map(([name, values]) => [name, values[i]])), spread: table.spread[i], contended: table.contended[i] === 1,
      guess: guesses.has(number), // no better than a constant guess
    };
  });
}

// The simple models that have a quality, best first, then the others.
function simpleModels(head) {
  const { metric, direction } = head.quality, factor = direction === "min" ? 1 : -1;
  const rank = (b) => known(b.metrics[metric]) ? factor * b.metrics[metric] : Infinity;
  return [...head.baselines].sort((p, q) => rank(p) < rank(q) ? -1 : rank(p) > rank(q) ? 1 : 0);
}

// ---- what is shown of a single candidate ------------------------------------------------------

// The baked page holds parcels of details, deflated; a dashboard is asked for each.
let parcels = null;
const opened = new Map(); // parcels that are unpacked, or about to be

async function unpacked(parcel) {
  const bytes = Uint8Array.from(atob(parcel.data), (char) => char.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  return JSON.parse(text);
}

async function bakedDetail(number) {
  parcels ??= JSON.parse($("details").textContent);
  const parcel = parcels.find((each) => each.numbers.includes(number));
  if (!parcel) return null;
  if (!opened.has(parcel)) opened.set(parcel, unpacked(parcel));
  return (await opened.get(parcel))[parcel.numbers.indexOf(number)];
}

// A promise of the details of a candidate; of null where the page holds none. One that fails is
// asked for again.
function detailOf(own, number) {
  if (!own.details.has(number)) {
    const asked = $("details") ? bakedDetail(number) : fetchedDetail(own, number);
    own.details.set(number, asked);
    asked.catch(() => { if (own.details.get(number) === asked) own.details.delete(number); });
  }
  return own.details.get(number);
}
