// What is shown as a file: plots as PNG or SVG, the table as CSV or JSON.

function save(name, content, type) {
  const url = typeof content === "string" && content.startsWith("data:") ? content : URL.createObjectURL(new Blob([content], { type }));
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  if (url.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// A file name from a study's: letters, digits, dots and dashes.
const fileName = (ending) => `${study().head.name.replace(/[^\w.-]+/g, "-").slice(0, 60)}-${ending}`;

// The plot with the canvas's marks as marks of plotly.js.
function wholeFigure(plot) {
  const marks = plot.scene.points.filter((p) => p.mark);
  const trace = {
    type: "scatter", mode: "markers", x: marks.map((p) => p.x), y: marks.map((p) => p.y),
    marker: {
      symbol: marks.map((p) => p.mark.symbol + (p.mark.hollow ? "-open" : "")), color: marks.map((p) => p.mark.colour),
      size: marks.map((p) => p.mark.size), opacity: marks.map((p) => p.mark.opacity),
      line: { color: marks.map((p) => p.mark.edge || p.mark.colour), width: marks.map((p) => p.mark.edge ? 1 : 0) },
    },
  };
  const stairs = { type: "scatter", mode: "lines", ...plot.scene.stairs, line: { shape: "hv", color: css("ink"), width: 1.4 } };
  const { width, height } = plot.node._fullLayout, zoomed = (axis, full) => ({ ...axis, range: full.range });
  const full = plot.node._fullLayout;
  const shape = layout({ ...plot.scene.shape, xaxis: zoomed(plot.scene.x, full.xaxis), yaxis: zoomed(plot.scene.y, full.yaxis), width, height, selections: [] });
  return { data: [stairs, trace, ...plot.scene.traces], layout: shape };
}

async function savePlot(plot, format) {
  const { data, layout: shape } = wholeFigure(plot), { width, height } = shape;
  const url = await Plotly.toImage({ data, layout: shape }, { format, width, height, scale: format === "png" ? 2 : 1 });
  save(fileName(`plot.${format}`), url);
}

const exportButtons = (plot) => el("span", { class: "exports" }, ["png", "svg"].map((format) =>
  el("button", { type: "button", "aria-label": `Save this plot as ${format.toUpperCase()}`, onclick: () => savePlot(plot, format) }, format.toUpperCase())));

// A cell that no spreadsheet runs: an apostrophe before text that begins like a formula.
function cell(value) {
  let text = value === null || value === undefined ? "" : String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(value) && !Number.isFinite(Number(value))) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function shownCandidates() {
  const own = study();
  return itemsOf(own, columnsOf(own)).filter((item) => item.c && !item.simple).map((item) => item.c);
}

function asCsv(candidates) {
  const metrics = [...new Set(candidates.flatMap((c) => Object.keys(c.metrics)))], settings = [...new Set(candidates.flatMap((c) => Object.keys(c.config)))];
  const heads = ["number", "family", "state", "reason", "origin", "epochs", "seconds", ...metrics, ...settings.map((name) => `config.${name}`)];
  const rows = candidates.map((c) => [c.number, c.family, c.state, c.reason, c.origin, c.epochs, c.seconds, ...metrics.map((name) => c.metrics[name]), ...settings.map((name) => c.config[name])]);
  return [heads, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function mountExport() {
  $("save-csv").addEventListener("click", () => save(fileName("candidates.csv"), asCsv(shownCandidates()), "text/csv"));
  $("save-json").addEventListener("click", () => save(fileName("candidates.json"), JSON.stringify(shownCandidates(), null, 1), "application/json"));
}
