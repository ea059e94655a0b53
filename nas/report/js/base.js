"use strict";
// The explorer. Its files are one script in the end: base (elements, numbers and names), store (the
// studies, by candidate), front, filter, view (what the user has chosen), plots, table, a file for
// each page, export, live (the connection to a dashboard) and main.
// Text from the data becomes text nodes, never markup.

const $ = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
const fill = (target, ...children) =>
  (typeof target === "string" ? $(target) : target).replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined));
// Setting the same text again would make screen readers say it again.
function say(node, text) { if (node.textContent !== text) node.textContent = text; }

// The children of a node by key: those that stay are kept, with their focus and their drags, and
// only brought up to date. `make(item)` gives a node, `update(node, item)` sets what may change.
function keyed(parent, items, key, make, update = () => {}) {
  const before = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const held = parent.contains(document.activeElement) ? document.activeElement : null;
  let place = parent.firstChild;
  for (const item of items) {
    const name = String(key(item));
    let node = before.get(name);
    before.delete(name);
    if (!node) {
      node = make(item);
      node.dataset.key = name;
    }
    update(node, item);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of before.values()) node.remove();
  // An element that is moved to another place loses the focus.
  if (held?.isConnected && document.activeElement !== held) held.focus({ preventScroll: true });
}

// ---- numbers and names ----------------------------------------------------------------------

const LABELS = {
  latency_ms: "latency (ms)", params: "parameters", flops: "FLOPs", memory_mb: "training memory (MiB)",
  inference_mb: "memory of a prediction (MiB)", step_ms: "training step (ms)", val_loss: "validation loss",
  auc: "AUC", f1: "F1", r2: "R²", rmse: "RMSE", mae: "MAE", balanced_accuracy: "balanced accuracy",
  use: "device use (fraction)", samples: "samples of gradients", dead_units: "dead units (fraction)", exploding: "gradients explode from a norm of",
  vanishing: "and vanish below (first layer over largest)", seconds: "time of training (s)", epochs: "epochs trained",
};

const known = (value) => typeof value === "number" && Number.isFinite(value);
const label = (name) => {
  if (name === "latency_ms" && study()?.head && latencyOn(study())) return `latency (ms) on ${latencyOn(study())}`;
  return LABELS[name] ?? name.replace(/^config\./, "").replaceAll("_", " ");
};
// The device of the latencies: that of another measurement, or the one GPU of the search.
const latencyOn = ({ head, facts }) => head.latency_on || (facts.gpus.length === 1 ? facts.gpus[0] : "");
// plotly.js reads a little HTML in its texts; names from the data must not be read so.
const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const clipped = (text, most = 40) => text.length > most ? `${text.slice(0, most - 1)}…` : text;

function short(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return `${Number((value / unit).toPrecision(3))} ${letter}`;
  return size >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);
}
// A measure as people read it: costs in three digits, scores in four decimals.
function show(name, value) {
  if (!known(value)) return "–";
  if (name === "seconds") return duration(value);
  if (name.startsWith("config.")) return setting(value);
  if (study().head.costs.includes(name) || Math.abs(value) >= 1000) return short(value);
  if (name === "epochs") return String(value);
  if (Math.abs(value) >= 10) return value.toPrecision(4);
  return Math.abs(value) >= 1e-3 || value === 0 ? value.toFixed(4) : value.toPrecision(2);
}
function setting(value) {
  if (typeof value === "boolean") return value ? "True" : "False"; // as in Python and in the ranges
  if (typeof value !== "number" || Number.isInteger(value)) return String(value ?? "–");
  return Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}
function duration(seconds) {
  if (!known(seconds)) return "–";
  const whole = Math.round(seconds); // else 59.7 s would be 60 s, and 119.7 s 1 min 60 s
  if (whole < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
const count = (n) => n.toLocaleString("en");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const sign = (op) => op === "<=" ? "≤" : "≥";
const WIDE = 20; // a positive quantity that spans more than this factor gets a logarithmic scale
function span(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (known(value)) { if (value < low) low = value; if (value > high) high = value; }
  return { low, high, log: low > 0 && high > WIDE * low };
}
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
function debounced(wait, call) { // calls once, when nothing has asked for it any more
  let timer = null;
  return () => { clearTimeout(timer); timer = setTimeout(call, wait); };
}

// ---- tables and small parts -------------------------------------------------------------------

const td = (kind, ...children) => el("td", { class: kind }, ...children);
const tr = (...cells) => el("tr", {}, ...cells);
const th = (name, kind = null) => name === "" ? el("td") : el("th", { class: kind, scope: "col" }, name);
const table = (headings, rows) =>
  el("table", {}, headings.length ? el("thead", {}, tr(headings)) : null, el("tbody", {}, rows));
// What scrolls must be reached by keyboard, and so has a name.
const scroll = (name, ...children) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, ...children);
const note = (text) => el("p", { class: "empty" }, text);
const fine = (text) => el("p", { class: "fine" }, text);
const bar = (fraction, kind = "") => el("span", { class: `bar ${kind}`, style: { width: `${100 * fraction}%` } });
const facts = (pairs) => el("dl", {},
  pairs.filter(([, fact]) => fact).flatMap(([name, fact]) => [el("dt", {}, name), el("dd", {}, fact)]));
