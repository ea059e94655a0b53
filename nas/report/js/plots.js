// Plots. plotly.js draws axes, lines, the front and the simple models; all other candidates are marks
// on a canvas inside its axes, for ten thousand of them take it seconds.

// Eight colours of families and their marks. All stand out from the background by 3:1 (WCAG 2.2,
// 1.4.11), and no two that are alike to colour-blind people have marks that are alike.
const COLOURS = {
  light: ["#0072b2", "#c4500a", "#00845f", "#a8458a", "#8a6d00", "#2b2b2b", "#c22e4e", "#5a55c8"],
  dark: ["#5ab4f0", "#ff9a52", "#35c79b", "#e693c6", "#e8d44d", "#e4e9ee", "#ff7b93", "#a7a2ff"],
};
const SYMBOLS = [ // of plotly.js, and in a text
  ["circle", "●"], ["square", "■"], ["diamond", "◆"], ["triangle-up", "▲"], ["cross", "✚"], ["x", "✖"], ["star", "★"], ["triangle-down", "▼"],
];
// Viridis, of which the dark end is left out in the dark and the light end in the light.
const SCALE = { light: ["#440154", "#3b528b", "#21918c", "#3f9e5a", "#7a8a00"], dark: ["#7d7fd6", "#4aa0d0", "#2fb8a4", "#6fce5b", "#f2e13a"] };
const DASHES = ["solid", "dash", "dot", "dashdot"];

const isDark = () => document.documentElement.dataset.theme === "dark";
const theme = () => isDark() ? "dark" : "light";
const styles = new Map(); // asking the browser takes longer than a mark
function css(name) {
  const key = `${theme()} ${name}`;
  if (!styles.has(key)) styles.set(key, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return styles.get(key);
}
const pickColour = (i) => css(`pick-${i}`);
const family = (name) => {
  const at = Math.max(0, study().facts.families.indexOf(name));
  return { colour: COLOURS[theme()][at % 8], symbol: SYMBOLS[at % 8] };
};

const CONFIG = { displaylogo: false, showSendToCloud: false, responsive: true, displayModeBar: false, doubleClick: "reset" };
const touch = matchMedia("(pointer: coarse)").matches; // there a drag scrolls the page
const MARGIN = { l: 62, r: 16, t: 12, b: 46 };

const font = (size = 12.5) => ({
  family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif", size, color: css("ink"),
});

function axis(title, range, more = {}) {
  const base = {
    title: { text: escaped(title), standoff: 6, font: font(13) }, gridcolor: css("grid"), zeroline: false,
    linecolor: css("edge"), ticks: "outside", tickcolor: css("edge"), ...more,
  };
  if (!range || !known(range.low)) return base;
  const { low, high, log } = range;
  const ends = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const pad = (ends[1] - ends[0]) * 0.05 || Math.abs(ends[0]) * 0.1 || 1;
  const big = high >= 1000 ? { tickformat: "~s" } : {};
  const logarithmic = log ? { type: "log", dtick: high / low > 100 ? 1 : "D2" } : {};
  return { ...base, ...big, ...logarithmic, range: [ends[0] - pad, ends[1] + pad] };
}
const layout = (more) => ({
  font: font(), margin: MARGIN, paper_bgcolor: css("card"), plot_bgcolor: css("card"), showlegend: false,
  hovermode: "closest", dragmode: touch ? false : "zoom", uirevision: "kept",
  hoverlabel: { bgcolor: css("card"), bordercolor: css("edge"), font: font(), align: "left" }, ...more,
});

// An ordinary plot in a node, with a name for those who do not see it.
function draw(node, name, traces, shape) {
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", name);
  Plotly.react(node, traces, layout(shape), CONFIG);
}
// Frees what plotly.js holds of the plots in a node before they go.
function purge(parent) {
  for (const node of parent.querySelectorAll(".js-plotly-plot")) Plotly.purge(node);
}

// A dashed line and a label for each simple model, labels alternating between the two sides.
function simpleLines(own, onLog) {
  const { metric } = own.head.quality;
  const lines = own.facts.simple.filter((b) => known(b.metrics[metric]))
    .sort((p, q) => p.metrics[metric] - q.metrics[metric]).map((b) => ({ name: b.name, level: b.metrics[metric] }));
  const line = { color: css("simple"), width: 1.3, dash: "dash" };
  return {
    shapes: lines.map(({ level }) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: level, y1: level, layer: "below", line })),
    annotations: lines.map(({ name, level }, i) => ({
      xref: "paper", x: i % 2 ? 0.01 : 0.99, xanchor: i % 2 ? "left" : "right", y: onLog ? Math.log10(level) : level,
      yanchor: i ? "bottom" : "top", text: escaped(clipped(name)), showarrow: false, font: font(11.5), bgcolor: css("card"), opacity: 0.85,
    })),
  };
}

// ---- marks ---------------------------------------------------------------------------------------

function outline(context, symbol, r) { // the shapes of plotly.js, around the origin
  const polygon = (...points) => { points.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](x * r, y * r)); context.closePath(); };
  context.beginPath();
  if (symbol === "square") polygon([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
  else if (symbol === "diamond") polygon([0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]);
  else if (symbol === "triangle-up") polygon([0, -1.2], [1.1, 0.8], [-1.1, 0.8]);
  else if (symbol === "triangle-down") polygon([0, 1.2], [1.1, -0.8], [-1.1, -0.8]);
  else if (symbol === "cross") polygon([-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]);
  else if (symbol === "x") polygon([-1.1, -0.6], [-0.6, -1.1], [0, -0.5], [0.6, -1.1], [1.1, -0.6], [0.5, 0], [1.1, 0.6], [0.6, 1.1], [0, 0.5], [-0.6, 1.1], [-1.1, 0.6], [-0.5, 0]);
  else if (symbol === "star") polygon(...Array.from({ length: 10 }, (_, i) => {
    const angle = i * Math.PI / 5, size = i % 2 ? 0.55 : 1.4;
    return [size * Math.sin(angle), -size * Math.cos(angle)];
  }));
  else context.arc(0, 0, r, 0, 2 * Math.PI);
}

// A kind of mark: one object for all candidates that have it.
const kinds = new Map();
function markOf(symbol, colour, size, hollow, opacity, edge = "") {
  const key = `${symbol}${colour}${size}${hollow}${opacity}${edge}`;
  let kind = kinds.get(key);
  if (!kind) kinds.set(key, kind = { symbol: symbol ?? "circle", colour, size, hollow, opacity, edge });
  return kind;
}

// Each kind is drawn once and copied from then on.
const stamps = new Map();
function stamp(kind) {
  const { symbol, colour, size, hollow, opacity, edge } = kind;
  if (stamps.get(kind)?.ratio !== devicePixelRatio) {
    const side = Math.ceil(size * 1.6 + 4), canvas = el("canvas", { width: side * devicePixelRatio, height: side * devicePixelRatio });
    const context = canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    context.translate(side / 2, side / 2);
    context.globalAlpha = opacity;
    outline(context, symbol, size / 2);
    context.lineWidth = 1.2;
    context.fillStyle = context.strokeStyle = colour;
    if (hollow) context.stroke(); else context.fill();
    if (edge && !hollow) { context.lineWidth = 1; context.strokeStyle = edge; context.stroke(); }
    stamps.set(kind, { canvas, side, ratio: devicePixelRatio });
  }
  return stamps.get(kind);
}

// Candidates as marks over two measures. `set(scene)` shows a scene:
//   x, y: { title, range }; points: [{ c, x, y, mark }], drawn in this order on the canvas;
//   stairs: a line of steps below the marks; traces, shape: what plotly.js draws, which takes longer
//   than all the rest; walk: the candidates that the arrow keys walk through.
class MarkPlot {
  constructor(onLasso) {
    this.node = el("div", { class: "plot", tabindex: 0, role: "group" });
    this.canvas = el("canvas", { class: "marks", "aria-hidden": "true" });
    this.hint = el("div", { class: "hint-box", role: "status" });
    this.hint.hidden = true;
    this.box = el("div", { class: "plot-box" }, this.node, this.canvas, this.hint);
    this.onLasso = onLasso;
    this.drawn = ""; // what plotly.js was last given
    this.pressed = null;
    this.node.addEventListener("pointermove", (event) => this.hover(event));
    this.node.addEventListener("pointerleave", () => this.point(null));
    this.node.addEventListener("pointerdown", (event) => { this.pressed = event; }, true);
    window.addEventListener("pointerup", (event) => this.release(event), true);
    this.node.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.paint()).observe(this.box);
  }

  set(scene) {
    this.scene = scene;
    this.node.setAttribute("aria-label", scene.name);
    const wanted = JSON.stringify([scene.traces, scene.shape, scene.x, scene.y, isDark()]);
    if (wanted !== this.drawn) {
      this.drawn = wanted;
      const fresh = !this.node.data;
      const shape = layout({ hovermode: false, uirevision: `${scene.x.title.text} ${scene.y.title.text}`, ...scene.shape, xaxis: scene.x, yaxis: scene.y });
      Plotly.react(this.node, scene.traces, shape, CONFIG);
      if (fresh) {
        this.node.on("plotly_relayout", () => this.paint());
        this.node.on("plotly_relayouting", () => this.paint());
        this.node.on("plotly_selected", (event) => this.select(event));
      }
    }
    this.paint();
  }

  // Pixels of a value, by the axes as plotly.js has them now: the user may have zoomed.
  scales() {
    const full = this.node._fullLayout;
    if (!full?.xaxis?.range) return null;
    const width = full.width - MARGIN.l - MARGIN.r, height = full.height - MARGIN.t - MARGIN.b;
    const scale = (axis, from, length) => {
      const [low, high] = axis.range, log = axis.type === "log";
      return (value) => from + length * ((log ? Math.log10(value) : value) - low) / (high - low);
    };
    return { x: scale(full.xaxis, MARGIN.l, width), y: scale(full.yaxis, MARGIN.t + height, -height), width, height, full };
  }

  paint() {
    const scales = this.node.data && this.scales();
    if (!scales || !this.scene) return;
    const { width, height } = scales.full, ratio = devicePixelRatio;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${height}px`;
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.save();
    context.beginPath();
    context.rect(MARGIN.l, MARGIN.t, scales.width, scales.height);
    context.clip();
    this.line(context, scales);
    this.places = [];
    for (const point of this.scene.points) {
      const x = scales.x(point.x), y = scales.y(point.y);
      if (!(x >= MARGIN.l && x <= MARGIN.l + scales.width && y >= MARGIN.t && y <= MARGIN.t + scales.height)) continue;
      this.places.push(x, y, point);
      if (!point.mark) continue; // one that plotly.js draws
      const { canvas, side } = stamp(point.mark);
      context.drawImage(canvas, x - side / 2, y - side / 2, side, side);
    }
    context.restore();
    if (this.shown) this.point(this.shown, true);
  }

  line(context, scales) {
    const { x, y } = this.scene.stairs;
    context.beginPath();
    x.forEach((value, i) => {
      if (i) context.lineTo(scales.x(value), scales.y(y[i - 1]));
      context.lineTo(scales.x(value), scales.y(y[i]));
    });
    context.lineWidth = 1.4;
    context.strokeStyle = css("ink");
    context.stroke();
  }

  nearest(event) {
    const { left, top } = this.node.getBoundingClientRect(), px = event.clientX - left, py = event.clientY - top;
    let best = 14 ** 2, found = null;
    for (let i = 0; i < (this.places?.length ?? 0); i += 3) {
      const distance = (this.places[i] - px) ** 2 + (this.places[i + 1] - py) ** 2;
      // Of marks on one another the last is on top.
      if (distance <= best) { best = distance; found = this.places[i + 2]; }
    }
    return found;
  }

  hover(event) {
    if (event.buttons) return this.point(null); // in a drag
    return this.point(this.nearest(event));
  }

  point(found, again = false) {
    if (found === this.shown && !again) return;
    this.shown = found;
    this.hint.hidden = !found;
    this.node.classList.toggle("over", Boolean(found));
    if (!found) return;
    const scales = this.scales(), x = scales.x(found.x), y = scales.y(found.y);
    fill(this.hint, el("b", {}, found.title ?? `#${found.c.number} ${found.c.family}`), (found.lines ?? hintLines(found.c)).map((line) => el("div", {}, line)));
    this.hint.style.left = `${Math.max(4, Math.min(x + 12, scales.full.width - this.hint.offsetWidth - 4))}px`;
    this.hint.style.top = `${y + 14 + this.hint.offsetHeight > scales.full.height ? y - 10 - this.hint.offsetHeight : y + 14}px`;
  }

  release(event) {
    const pressed = this.pressed;
    this.pressed = null;
    if (!pressed || Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) > 4) return;
    const found = this.nearest(event);
    if (found?.c) pick(found.c.number);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) {
      const order = this.scene.points.filter((p) => p.c && this.scene.walk.has(p.c)).sort((p, q) => p.x - q.x || p.y - q.y);
      if (!order.length) return;
      const at = order.findIndex((p) => p.c === this.shown?.c);
      this.point(order[at < 0 ? 0 : (at + step + order.length) % order.length]);
    } else if ((event.key === "Enter" || event.key === " ") && this.shown?.c) pick(this.shown.c.number);
    else if (event.key === "Escape") this.point(null);
    else return;
    event.preventDefault();
  }

  select(event) {
    if (!event) return;
    const { lassoPoints, range } = event;
    const points = lassoPoints ? lassoPoints.x.map((x, i) => [x, lassoPoints.y[i]])
      : range ? [[range.x[0], range.y[0]], [range.x[1], range.y[0]], [range.x[1], range.y[1]], [range.x[0], range.y[1]]] : [];
    this.drawn = ""; // the outline goes with the next drawing
    if (points.length >= 3) this.onLasso(points);
  }
}

function hintLines(candidate) {
  const own = study(), { shown } = own.facts;
  const lines = shown.filter((name) => known(candidate.metrics[name])).map((name) => `${label(name)} ${metricText(candidate, name)}`);
  const other = current().isOnFront.has(candidate) && current().noisy.get(candidate);
  if (other) lines.push(`within noise of #${other.number}, which is clearly cheaper or better`);
  if (candidate.state !== "complete") lines.push(candidate.reason || candidate.state);
  return lines;
}

// A metric with how sure it is: one standard error of the quality, the spread of a latency, and a
// dagger where that was measured beside other work.
function metricText(candidate, name) {
  if (!known(candidate.metrics[name])) return "–";
  const text = show(name, candidate.metrics[name]);
  const within = name === "latency_ms" ? candidate.spread : name === study().head.quality.metric ? candidate.error : null;
  const decimals = text.match(/\.(\d+)/)?.[1].length ?? 0;
  const rounded = (error) => Number(error.toFixed(Math.min(decimals, 4))) ? error.toFixed(Math.min(decimals, 4)) : String(Number(error.toPrecision(1)));
  const spread = known(within) ? ` ± ${/[kMGT]$/.test(text) ? short(within) : rounded(within)}` : "";
  return text + spread + (name === "latency_ms" && candidate.contended ? " †" : "");
}
