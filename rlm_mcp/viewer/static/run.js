// The page of one run: its layout and its keys. How it gets news of a run that goes on is in other files.

const HELP = [
  ["/", "search the timeline"],
  ["Esc", "leave the search, or close this list"],
  ["1 … 6", "go to a section"],
  ["↓ ↑ or j k", "next, previous row of the timeline"],
  ["→ ←", "open, close a row; then to its first child, to its parent"],
  ["Enter", "open or close a row"],
  ["PgDn PgUp Home End", "move by a page, to an end"],
  ["f F", "next, previous failure"],
  ["z", "zoom to the selected row (or double-click it, or drag across the strip)"],
  ["+ −", "zoom in and out"],
  ["0", "show the whole run again"],
  ["t", "colours: system, light, dark"],
  ["?", "this list"],
];
const SECTIONS = [["answer", "Answer"], ["evidence", "Evidence"], ["coverage", "Coverage"], ["spending", "Spending"], ["timeline", "Timeline"], ["turns", "Turns"]];
const SHOWN_TURNS = 60;

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const isInChat = page.dataset.kind === "run-app";
let plan = plant(data.head, data.rows);
let readPath = "";

const parts = Object.fromEntries(SECTIONS.map(([id]) => [id, el("div", { class: "part" })]));
const top_ = el("header", { class: "top" });
const detail = el("div", { class: "detail", id: "detail", "aria-live": "off" });
const grid = new Grid({ onSelect: showDetail, onZoom: zoom });
const strip = new Flight({ onZoom: zoom });
const search = el("input", { type: "search", id: "search", placeholder: "Search prompts, replies, code, output", "aria-label": "Search the timeline", autocomplete: "off", spellcheck: "false" });
const found = el("output", { class: "found", for: "search" });
const views = el("div", { class: "choices", role: "group", "aria-label": "Rows to show" });
const reset = el("button", { type: "button", class: "quiet", hidden: true, on: { click: () => zoom(null) } }, "Whole run (0)");
const help = helpDialog();
const theme = themeButton();
const nav = el("nav", { class: "sections", "aria-label": "Sections" }, el("ol", {}, SECTIONS.map(([id, name]) => el("li", {}, el("a", { href: `#${id}` }, name)))),
  el("div", { class: "tools" }, theme, el("button", { type: "button", class: "quiet", "aria-haspopup": "dialog", title: "Keys (?)", on: { click: () => help.showModal() } }, "Keys: ?")));
const main = el("main", { id: "main" }, top_, SECTIONS.map(([id, name]) => el("section", { id, "aria-labelledby": `${id}-title`, tabindex: "-1" }, el("h2", { id: `${id}-title` }, name), parts[id])));

page.append(el("a", { class: "skip", href: "#answer" }, "To the answer"), nav, main, help);
layOutTimeline();
show();
listen();

// --- layout

function show() {
  const { head } = data;
  top_.replaceChildren(...headParts(head));
  parts.answer.replaceChildren(answerBox(head));
  parts.evidence.replaceChildren(evidenceBox(data));
  parts.coverage.replaceChildren(coverageBox(data));
  parts.spending.replaceChildren(spendingBox(head, plan));
  strip.show(plan);
  strip.zoom(grid.window);
  grid.show(plan);
  showTurns();
  filter();
  if (plan.nodes.has(grid.selected)) showDetail(plan.nodes.get(grid.selected));
  page.dispatchEvent(new Event("shown"));
}

// Adds what the page lacked; `show` then shows it.
function take(news) {
  Object.assign(data, { head: news.head, coverage: news.coverage, passages: news.passages, rows: data.rows.concat(news.rows) });
  plan = plant(data.head, data.rows);
}

// Scrolls to a section, which is put in sight first where only some are shown.
function reveal(id) {
  page.dispatchEvent(new CustomEvent("reveal", { detail: id }));
  document.getElementById(id).scrollIntoView();
}

function headParts(head) {
  const { usage } = head;
  const status = { completed: head.stopped_by === "final" || !head.stopped_by ? "completed" : `stopped by ${head.stopped_by}`, running: "running" }[head.status] ?? head.status;
  const tone = head.status === "completed" ? (head.stopped_by === "final" || !head.stopped_by ? "good" : "warn") : head.status === "running" ? "live" : "bad";
  const calls = usage.sub_calls || usage.cached_calls;
  const left = (limit, spent, shown) => (head.is_live && head.limits[limit] && spent !== null ? `${shown(Math.max(0, head.limits[limit] - spent))} left` : "");
  const figures = [
    ["Turns", num(head.turns)],
    ["Sub-calls", calls ? num(usage.sub_calls) : "none", [usage.cached_calls ? `${num(usage.cached_calls)} more from the cache` : "", usage.failed_calls ? `${num(usage.failed_calls)} failed` : "", usage.calls_in_vain ? `${num(usage.calls_in_vain)} asked in vain` : "", left("max_sub_calls", usage.sub_calls, num)].filter(Boolean).join(", ")],
    ["Tokens in", num(usage.prompt_tokens)],
    ["Tokens out", num(usage.completion_tokens)],
    ["Cost", usage.cost_usd === null ? "–" : money(usage.cost_usd), usage.cost_usd === null ? "price unknown" : left("max_usd", usage.cost_usd, money)],
    ["Time", span(usage.seconds), left("max_seconds", usage.seconds, span)],
    ["Answered by", head.answered_by || "–"],
    ["Confidence", head.confidence || "–"],
  ];
  const models = [head.models.root, head.models.sub].filter((name, index, all) => name && all.indexOf(name) === index).join(", sub-calls ");
  const contexts = head.contexts.slice(0, 6).map((one) => `${line(one.name, 60)} (${count(one.chars, "character")}, ${one.files > 1 ? count(one.files, "file") : count(one.lines, "line")})`);
  if (head.contexts.length > 6) contexts.push(`${num(head.contexts.length - 6)} more`);
  const live = head.is_live && !isInChat ? (data.follow ? "This page follows the run." : "This page shows the run as it was when the page was written; rlm-mcp runs view --serve follows it.") : "";
  return [
    el("p", { class: "kicker" }, el("span", { class: `status ${tone}` }, status), head.id ? el("span", { class: "mono" }, head.id) : null, el("time", { datetime: line(head.created_at, 40) }, line(head.created_at, 40).replace("T", " ").replace(/\.\d+\+00:00$|\+00:00$/, " UTC"))),
    sayCut(el("h1", whole(head.query).length > 300 ? { class: "long", tabindex: "0" } : {}), head.query, `rlm-mcp runs export ${head.id}`),
    el("dl", { class: "figures-line" }, figures.map(([name, value, more]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, more ? el("small", {}, more) : null)))),
    el("p", { class: "soft about" }, `Contexts: ${contexts.join(", ") || "none stored"}. Models: ${models || "not named"}. `, head.mode_reason ? `Route: ${head.mode_reason}.` : ""),
    live ? el("p", { class: "note-line live" }, live) : null,
    ...head.notes.map((note) => el("p", { class: "note-line" }, note)),
  ].filter(Boolean);
}

function layOutTimeline() {
  for (const [name, [text]] of Object.entries(VIEWS)) {
    views.append(el("button", { type: "button", class: "choice", "data-view": name, "aria-pressed": String(name === "all"), on: { click: () => setView(name) } }, text));
  }
  const open = el("button", { type: "button", class: "quiet", on: { click: () => openAll() } }, "Open all");
  const legend = el("p", { class: "legend", "aria-hidden": "true" }, [["reply", "model"], ["cell", "code"], ["call", "sub-call"], ["waiting", "waiting for its turn"], ["failed", "failed"]].map(([kind, text]) => el("span", {}, el("i", { class: `swatch ${kind}` }), text)));
  parts.timeline.append(strip.element, el("div", { class: "toolbar" }, el("div", { class: "search-box" }, search, found), views, open, reset, legend), grid.element, detail);
}

function showDetail(node) {
  detail.replaceChildren(node ? detailOf(node, data.head, { onShow: (to) => goTo(to), onRead: readTurns }) : "");
  detail.scrollTop = 0;
  highlight(grid.words, main);
}

function showTurns() {
  const run = plan.runs.get(readPath) ?? plan.root;
  const box = parts.turns;
  const back = readPath ? el("p", {}, el("button", { type: "button", class: "link", on: { click: () => readTurns(plan.root) } }, "Back to the turns of the whole run")) : null;
  const about = readPath ? el("p", { class: "soft" }, `Turns of child run ${readPath}: ${line(run.query, 200)}`) : null;
  const shown = run.turns.slice(0, SHOWN_TURNS).map((turn) => turnBox(turn, data.head, { onShow: (to) => goTo(to) }));
  const rest = run.turns.slice(SHOWN_TURNS);
  const more = rest.length ? el("button", { type: "button", class: "link" }, `Show the other ${num(rest.length)} turns`) : null;
  more?.addEventListener("click", () => more.replaceWith(...rest.map((turn) => turnBox(turn, data.head, { onShow: (to) => goTo(to) }))));
  const none = run.turns.length ? null : el("p", { class: "soft" }, "There are no turns on record.");
  box.replaceChildren(...[back, about, none, ...shown, more].filter(Boolean));
}

function readTurns(node) {
  readPath = node.path;
  showTurns();
  reveal("turns");
}

function goTo(node) {
  setView("all", { keepsPlace: true });
  if (search.value) {
    search.value = "";
    filter();
  }
  if (node.children.length) grid.opened.add(node.id);
  grid.list();
  grid.select(node.id);
  reveal("timeline");
  grid.box.focus({ preventScroll: true });
}

function openAll() {
  for (const node of plan.nodes.values()) if (node.children.length) grid.opened.add(node.id);
  grid.closed.clear();
  grid.list();
}

// --- search, filters, zoom

function setView(name) {
  grid.view = name;
  for (const button of views.children) button.setAttribute("aria-pressed", String(button.dataset.view === name));
  filter();
}

function filter() {
  grid.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  grid.list();
  const isPlain = grid.view === "all" && !grid.words.length;
  found.textContent = isPlain ? "" : count(grid.found, "row");
  if (!isPlain) {
    const first = grid.entries.find((entry) => entry.isHit);
    if (first && !grid.entries.some((entry) => entry.isHit && entry.node.id === grid.selected)) grid.select(first.node.id);
  }
  highlight(grid.words, main);
}

function zoom(range) {
  const isAll = range === null || range[1] - range[0] >= plan.end * 0.999 || range[1] <= range[0];
  grid.zoom(isAll ? null : range);
  strip.zoom(isAll ? null : range);
  reset.hidden = isAll;
}

function zoomBy(factor) {
  const [from, to] = grid.range;
  const middle = (from + to) / 2;
  const half = Math.max(((to - from) / 2) * factor, plan.end / 1_000_000);
  zoom([Math.max(0, middle - half), Math.min(plan.end, middle + half)]);
}

function nextFailure(step) {
  const failed = [...plan.nodes.values()].filter((node) => node.failed).sort((one, other) => one.start - other.start);
  if (!failed.length) return;
  const at = failed.findIndex((node) => node.id === grid.selected);
  const next = at < 0 ? (step > 0 ? 0 : failed.length - 1) : (at + step + failed.length) % failed.length;
  goTo(failed[next]);
}

// --- keys

function listen() {
  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      clearTimeout(waiting);
      filter();
      grid.box.focus();
    } else if (event.key === "Escape") {
      event.preventDefault();
      search.value = "";
      filter();
      grid.box.focus();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.closest("input, textarea, select")) return;
    const section = SECTIONS[Number(event.key) - 1];
    if (section) {
      reveal(section[0]);
      document.getElementById(section[0]).focus({ preventScroll: true });
      if (section[0] === "timeline") grid.box.focus({ preventScroll: true });
    } else if (event.key === "/") {
      reveal("timeline");
      search.focus({ preventScroll: true });
      search.select();
    } else if (event.key === "?") help.showModal();
    else if (event.key === "t") theme.click();
    else if (event.key === "f") nextFailure(1);
    else if (event.key === "F") nextFailure(-1);
    else if (event.key === "0") zoom(null);
    else if (event.key === "+" || event.key === "=") zoomBy(0.5);
    else if (event.key === "-" || event.key === "−") zoomBy(2);
    else if (event.key === "j" || event.key === "k") {
      grid.box.focus();
      grid.key(event);
    } else return;
    event.preventDefault();
  });
  let left = 0;
  window.addEventListener("beforeprint", () => {
    left = grid.print();
    document.documentElement.dataset.printing = "";
    if (left) parts.timeline.append(el("p", { class: "soft on-paper-only", id: "not-printed" }, `${num(left)} more rows are not printed.`));
  });
  window.addEventListener("afterprint", () => {
    document.getElementById("not-printed")?.remove();
    delete document.documentElement.dataset.printing;
    grid.unprint();
  });
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) nav.querySelector(`a[href="#${target.id}"]`)?.classList.toggle("here", isIntersecting);
  }, { rootMargin: "-10% 0px -70% 0px" });
  for (const [id] of SECTIONS) seen.observe(document.getElementById(id));
}

function helpDialog() {
  const close = el("button", { type: "button", class: "quiet" }, "Close");
  const dialog = el("dialog", { class: "help", "aria-labelledby": "help-title" }, el("h2", { id: "help-title" }, "Keys"),
    el("dl", {}, HELP.map(([keys, what]) => el("div", {}, el("dt", {}, keys.split(" ").map((key) => (/^(or|…)$/.test(key) ? ` ${key} ` : el("kbd", {}, key)))), el("dd", {}, what)))), close);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "?") dialog.close();
  });
  return dialog;
}
