// The table of candidates: a grid of which only the rows in sight are elements, so that ten thousand
// take no time. Arrow keys, Page Up and Down, Home and End move; Space selects; Enter opens.

const ROW = 31; // pixels

class CandidateTable {
  constructor(node) {
    this.head = el("div", { role: "row", class: "grid-row head", "aria-rowindex": 1 });
    this.body = el("div", { class: "grid-body", role: "rowgroup" });
    this.node = el("div", { class: "grid", role: "grid", "aria-label": "Candidates", "aria-multiselectable": "true" },
      el("div", { role: "rowgroup", class: "grid-head" }, this.head), this.body);
    fill(node, this.node);
    this.items = [];
    this.active = 0; // the row that the keyboard is at
    this.node.addEventListener("scroll", () => this.rows());
    this.node.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.rows()).observe(this.node);
  }

  // columns: { key, name, words, value(c), text(c) }; items: { key, c } with `c` a candidate or a simple
  // model, or { key, text, act } for a row that is a button.
  set(columns, items, sort, onSort) {
    const active = this.items[this.active]?.key;
    this.columns = columns;
    this.items = items;
    const at = items.findIndex((item) => item.key === active); // the row stays the row, wherever it goes
    this.active = Math.max(0, at >= 0 ? at : Math.min(this.active, items.length - 1));
    const widths = columns.map((column) => column.width).join(" ");
    if (this.node.style.getPropertyValue("--columns") !== widths) {
      // Head and rows are grids of their own: they only agree where neither is wider than the other.
      const least = columns.reduce((sum, column) => sum + Number(column.width.match(/\d+/)[0]), 12 * columns.length + 4);
      this.node.style.setProperty("--columns", widths);
      this.node.style.setProperty("--least", `${least}px`);
    }
    keyed(this.head, columns, (column) => column.key, (column) => el("div", { role: "columnheader", class: column.words ? "" : "n" },
      el("button", { type: "button", onclick: () => onSort(column.key) }, el("span"), el("i", { "aria-hidden": "true" }))),
    (cell, column) => {
      say(cell.querySelector("span"), column.name);
      const sorted = sort.key === column.key;
      say(cell.querySelector("i"), !sorted ? "" : sort.down ? " ↓" : " ↑");
      if (sorted) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    this.node.setAttribute("aria-rowcount", items.length + 1);
    this.node.setAttribute("aria-colcount", columns.length);
    this.body.style.height = `${Math.max(1, items.length) * ROW}px`;
    this.node.style.height = `${Math.min(420, items.length * ROW + Math.max(ROW, this.head.offsetHeight) + 18)}px`;
    this.rows();
  }

  rows() {
    if (!this.columns || !this.node.clientHeight) return;
    const first = Math.max(0, Math.floor(this.node.scrollTop / ROW) - 4);
    const last = Math.min(this.items.length, first + Math.ceil(this.node.clientHeight / ROW) + 8);
    const seen = [];
    for (let i = first; i < last; i++) seen.push(i);
    // The row that has the focus stays an element, for else the focus would be lost.
    if (this.active < this.items.length && (this.active < first || this.active >= last)) seen.push(this.active);
    keyed(this.body, seen, (i) => this.items[i].key, (i) => this.make(this.items[i]), (node, i) => this.update(node, i));
  }

  make(item) {
    const node = el("div", { role: "row", class: "grid-row" });
    node.addEventListener("click", () => {
      this.active = this.items.findIndex((other) => other.key === item.key);
      this.act(this.items[this.active]);
    });
    return node;
  }

  update(node, i) {
    const item = this.items[i];
    node.style.transform = `translateY(${i * ROW}px)`;
    node.tabIndex = i === this.active ? 0 : -1;
    node.setAttribute("aria-rowindex", i + 2);
    if (item.text) {
      node.className = "grid-row fold";
      if (node.textContent !== item.text) fill(node, el("div", { role: "gridcell", class: "whole" }, item.text));
      return;
    }
    const { c } = item, at = item.simple ? -1 : view.picks.indexOf(c.number);
    node.className = `grid-row${item.simple ? " simple" : ""}${at >= 0 ? ` pick-${at}` : ""}${item.faded ? " faded" : ""}`;
    if (!item.simple) {
      node.dataset.number = c.number;
      node.setAttribute("aria-selected", String(at >= 0));
    }
    keyed(node, this.columns, (column) => column.key,
      (column) => el("div", { role: "gridcell", class: column.words ? "" : "n" }), (cell, column) => {
        const text = String(column.text(c));
        say(cell, text);
        if (column.words) cell.title = text;
      });
  }

  act(item) {
    if (!item) return;
    if (item.act) item.act();
    else if (!item.simple) pick(item.c.number);
  }

  key(event) {
    if (event.target.closest(".head")) return;
    const page = Math.max(1, Math.floor(this.node.clientHeight / ROW) - 2), end = this.items.length - 1;
    const to = {
      ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page, Home: 0, End: end,
    }[event.key];
    const item = this.items[this.active];
    if (to !== undefined) this.go(Math.max(0, Math.min(end, to)));
    else if (event.key === " ") this.act(item);
    else if (event.key === "Enter" && item) { if (item.act || item.simple) this.act(item); else open(item.c.number); }
    else return;
    event.preventDefault(); // the keys would scroll
  }

  go(to) {
    this.active = to;
    const top = to * ROW, head = this.head.offsetHeight, room = this.node.clientHeight - head - ROW;
    if (top < this.node.scrollTop) this.node.scrollTop = top;
    else if (top > this.node.scrollTop + room) this.node.scrollTop = top - room;
    this.rows();
    this.body.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }
}

// ---- what it shows ---------------------------------------------------------------------------------

function columnsOf(own) {
  const { shown } = own.facts, all = view.rows === "all";
  const number = (key, name, value, text, width = "minmax(84px, 1fr)") => ({ key, name, value, text, width });
  return [
    { key: "number", name: "#", value: (c) => c.number, text: (c) => c.number ?? "", width: "58px" },
    { key: "family", name: "family", words: true, value: (c) => c.family, text: (c) => c.family, width: "minmax(110px, 1.6fr)" },
    ...all ? [{ key: "state", name: "state", words: true, value: (c) => c.state, text: (c) => c.reason || c.state, width: "96px" }] : [],
    ...shown.map((name) => number(name, label(name), (c) => c.metrics[name], (c) => metricText(c, name),
      name === own.head.quality.metric || name === "latency_ms" ? "minmax(128px, 1.5fr)" : undefined)),
    number("epochs", "epochs", (c) => c.epochs, (c) => c.epochs ?? "–", "68px"),
    number("seconds", "time", (c) => c.seconds, (c) => duration(c.seconds), "84px"),
  ];
}

const asRow = (b) => ({ family: b.name, metrics: b.metrics, error: b.error_of, spread: b.spread, contended: b.contended, seconds: b.seconds, state: "simple model", config: {} });

function itemsOf(own, columns) {
  const { feasible, front } = current();
  const chosen = { front, feasible, all: own.list.filter(isKept) }[view.rows].filter(isBrushed);
  const by = columns.find((column) => column.key === view.sort.key);
  const factor = view.sort.down ? -1 : 1;
  const compare = (p, q) => {
    const a = by.value(p), b = by.value(q);
    if (!known(a) && typeof a !== "string") return !known(b) && typeof b !== "string" ? 0 : 1;
    if (!known(b) && typeof b !== "string") return -1;
    return factor * (typeof a === "string" ? a.localeCompare(b) : a - b);
  };
  const candidate = (c) => ({ key: c.number, c, faded: c.state === "complete" && isBelowSimple(own, c) });
  const simple = own.facts.simple.map((b, i) => ({ key: `simple ${i}`, c: asRow(b), simple: true }));
  let items = chosen.map(candidate);
  let folded = [];
  if (view.rows === "front") { // the others are few beside all: nothing is gained by folding them
    const above = items.filter((item) => !item.faded);
    folded = above.length ? items.filter((item) => item.faded) : []; // a front is never all folded
    items = above.length ? [...above, ...simple, ...view.below ? folded : []] : [...simple, ...items];
  }
  if (by) items = [...items].sort((p, q) => compare(p.c, q.c));
  if (folded.length) items.push({
    key: "fold", text: `${view.below ? "▾ hide" : "▸ show"} ${count(folded.length)} of the front below the best simple model`,
    act: () => { view.below = !view.below; changed("rows", "plots"); },
  });
  return items;
}
