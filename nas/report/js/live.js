// The connection to a dashboard: updates as server-sent events, or by polling where those do not get
// through (a proxy that buffers). The baked page has none.

const POLL_MS = 2000, POLL_TIMEOUT_MS = 20_000;
// When events are tried again: what held them back may have been a moment's load.
const AGAIN_MS = 300_000;
// How long the first event may take, and each later one: the server sends one every 15 s (ALIVE_S).
const FIRST_MS = 5000, SILENT_MS = 40_000;
const live = { events: null, since: "", polling: false };

const isLive = () => !$("baked");

// Null where there is no such candidate; an error where it could not be read.
async function fetchedDetail(own, number) {
  const answer = await fetch(`api/studies/${own.id}/candidates/${number}`);
  if (!answer.ok && answer.status !== 404) throw new Error(answer.status);
  return answer.ok ? answer.json() : null;
}

function receive(update) {
  if (update.gone) return drop(update.study);
  if (!studies.has(update.study)) studies.set(update.study, new Study(update.study));
  const own = studies.get(update.study), had = own.head;
  own.apply(update);
  if (!had && own.head && own.id === view.wanted) fromHash();
  else if (!had && own.head && view.study === null) {
    view.study = own.id;
    if (location.hash) fromHash();
    if (!location.hash || view.wanted) view.picks = current().front.slice(0, 1).map((c) => c.number); // the best, as an example
  }
  if (view.filter && !view.matches && own.id === view.study) setFilter(view.filter); // its names may be known now
  return changed("data");
}

function drop(id) { // a study whose run was deleted
  studies.delete(id);
  view.laid = view.laid.filter((each) => each !== id);
  const other = [...studies.values()].find((own) => own.head);
  if (id === view.study && other) showStudy(other.id, view.page);
  else if (id === view.study) { view.study = null; say($("waiting"), "This run was deleted. Waiting for another one."); }
  changed("page", "data");
}

// Nothing more is coming for now: what the address names and has not come is not there.
function settle() {
  if (!studies.size) return;
  view.laid = view.laid.filter((id) => studies.has(id));
  if (view.wanted) { view.wanted = null; changed("data"); }
}

function connect() {
  const events = new EventSource(`api/events?since=${encodeURIComponent(live.since)}`);
  live.events = events;
  let heard = false, timer = 0;
  const lose = () => {
    clearTimeout(timer);
    events.close();
    // What never got through will not now either; what broke off is tried again at once.
    if (!heard) return poll();
    connected(false);
    return setTimeout(connect, POLL_MS);
  };
  const expect = (ms) => { clearTimeout(timer); timer = setTimeout(lose, ms); };
  const hear = (event) => {
    heard = true;
    live.since = event.lastEventId || live.since;
    connected(true);
    expect(SILENT_MS);
  };
  events.addEventListener("update", (event) => { hear(event); receive(JSON.parse(event.data)); });
  events.addEventListener("alive", (event) => { hear(event); settle(); });
  events.onerror = lose;
  expect(FIRST_MS);
}

async function poll() {
  if (live.polling) return;
  live.polling = true;
  const end = Date.now() + AGAIN_MS;
  while (Date.now() < end) {
    try {
      const answer = await fetch(`api/updates?since=${encodeURIComponent(live.since)}`, { signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
      if (!answer.ok) throw new Error(answer.status);
      const { since, updates } = await answer.json(), before = live.since;
      live.since = since;
      updates.forEach(receive);
      connected(true);
      if (updates.length && since !== before) continue; // there may be more
      settle();
    } catch {
      connected(false);
    }
    await new Promise((go) => setTimeout(go, POLL_MS));
  }
  live.polling = false;
  connect();
}

function connected(yes) {
  $("connection").classList.toggle("lost", !yes);
  say($("connection"), yes ? "live" : "connection lost, trying again");
}
