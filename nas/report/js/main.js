// The frame: which page is shown, the header, the theme.

const DRAW = { studies: drawStudies, explorer: drawExplorer, candidate: drawCandidate, why: drawWhy, machine: drawMachine };

function drawPage(what) {
  const own = study();
  for (const name of PAGES) {
    $(`page-${name}`).hidden = name !== view.page || !own?.head;
    const tab = $(`tab-${name}`);
    if (name === view.page) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  $("waiting").hidden = Boolean(own?.head);
  if (!own?.head) { for (const id of ["counts", "spent"]) say($(id), ""); $("study-choice").hidden = true; return; }
  drawHeader(own);
  DRAW[view.page](what);
  document.documentElement.dataset.ready = "yes";
}

function drawHeader(own) {
  const groups = stopped(own), states = {};
  for (const c of own.list) states[c.state] = (states[c.state] ?? 0) + 1;
  say($("name"), own.head.name);
  const title = `${own.head.name} · architecture search`;
  if (document.title !== title) document.title = title;
  const part = (state) => {
    const why = groups.filter((group) => group.state === state && group.reason).map((group) => `${group.reason} ${count(group.members.length)}`);
    return `${count(states[state] ?? 0)} ${state}${why.length ? ` (${why.join(", ")})` : ""}`;
  };
  const seen = ["complete", "pruned", "failed", "cut off", "running"].filter((state) => states[state] || state === "complete");
  say($("counts"), [plural(own.list.length, "candidate"), ...seen.map(part)].join(" · "));
  const training = own.list.reduce((sum, c) => sum + c.seconds, 0);
  say($("spent"), `${own.live?.state ? `${own.live.state} · ` : ""}${duration(own.live?.seconds ?? own.head.seconds)} wall-clock · ${duration(training)} of training`);
  $("study-choice").hidden = studies.size < 2;
  if (studies.size > 1) options($("study-select"), [...studies.values()].filter((each) => each.head).map((each) => [each.id, each.head.name]), view.study);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  const button = $("theme");
  button.textContent = name === "dark" ? "light" : "dark";
  button.setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
  changed("theme", "plots");
}

// Paper has no scrollbar: page one is the plot and as much of the table as there is room for.
function toPrint() {
  const own = study();
  if (!own?.head) return;
  const columns = columnsOf(own), rows = itemsOf(own, columns).filter((item) => item.c).slice(0, 60);
  fill("printed", table(columns.map((column) => th(column.name, column.words ? null : "n")),
    rows.map(({ c, simple }) => el("tr", { class: simple ? "baseline" : null }, columns.map((column) => td(column.words ? "wrap" : "n", String(column.text(c))))))));
}

function start() {
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  $("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  $("study-select").addEventListener("change", (event) => showStudy(event.target.value, view.page));
  for (const name of PAGES) $(`tab-${name}`).addEventListener("click", () => { view.page = name; changed("page"); });
  mountExplorer();
  mountCandidate();
  mountWhy();
  mountExport();
  window.addEventListener("hashchange", () => { fromHash(); written = location.hash; changed("page", "data"); });
  window.addEventListener("popstate", () => { fromHash(); written = location.hash; changed("page", "data"); });
  window.addEventListener("beforeprint", toPrint);
  if (isLive()) { $("connection").hidden = false; connect(); }
  else JSON.parse($("baked").textContent).forEach(receive);
  written = location.hash;
}

start();
