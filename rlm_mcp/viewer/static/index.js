// The index of all runs and contexts. A served one follows them.

const POLL_MILLISECONDS = 2000;

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const filter = el("input", { type: "search", placeholder: "Filter by question, answer, name, id", "aria-label": "Filter runs and contexts", autocomplete: "off", spellcheck: "false" });
const runs = el("div", { class: "part" });
const contexts = el("div", { class: "part" });
const about = el("p", { class: "kicker" });
const notes = el("div", { role: "status" });

page.append(el("main", { class: "index" },
  el("header", { class: "top" }, about, el("h1", {}, "Runs and contexts"), el("div", { class: "toolbar" }, el("div", { class: "search-box" }, filter), themeButton()), notes),
  el("section", { id: "runs", "aria-labelledby": "runs-title" }, el("h2", { id: "runs-title" }, "Runs"), runs),
  el("section", { id: "contexts", "aria-labelledby": "contexts-title" }, el("h2", { id: "contexts-title" }, "Contexts"), contexts)));
filter.addEventListener("input", show);
show();
if (data.follow) setTimeout(follow, POLL_MILLISECONDS);

function show() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (...texts) => words.every((word) => texts.some((text) => text.toLowerCase().includes(word)));
  const live = data.runs.filter((run) => run.is_live).length;
  about.replaceChildren(live ? el("span", { class: "status live" }, `${num(live)} running`) : el("span", {}, "nothing is running"),
    el("span", {}, `${num(data.runs.length)}${data.has_more_runs ? "+" : ""} runs`), el("span", {}, count(data.contexts_in_all, "context")), el("span", {}, data.follow ? "This page follows them." : "As of when the page was written; rlm-mcp runs view --serve follows them."));
  const shownRuns = data.runs.filter((run) => fits(run.id, whole(run.query), run.answer, ...run.contexts));
  const shownContexts = data.contexts.filter((one) => fits(one.context_id, one.name, one.source));
  runs.replaceChildren(...(shownRuns.length ? shownRuns.map(runBox) : [el("p", { class: "soft" }, data.runs.length ? "No run fits." : "There is no run yet.")]), data.has_more_runs ? el("p", { class: "soft" }, "Older runs are not listed: rlm-mcp runs list --limit N.") : "");
  contexts.replaceChildren(shownContexts.length ? contextTable(shownContexts) : el("p", { class: "soft" }, data.contexts.length ? "No context fits." : "There is no context yet."), missing(data.contexts_in_all - data.contexts.length, "older context"));
}

function missing(number, what) {
  return number > 0 ? el("p", { class: "soft" }, `${count(number, what)} not listed.`) : "";
}

function runBox(run) {
  const { usage } = run;
  const isWhole = run.status === "completed" && (!run.stopped_by || run.stopped_by === "final");
  const tone = run.is_live ? "live" : isWhole ? "good" : run.status === "completed" ? "warn" : "bad";
  const [verified, cited] = run.citations;
  const question = line(whole(run.query), 300) || "(no question)";
  const facts = [run.contexts.map((name) => line(name, 60)).join(", "), count(run.turns, "turn"), usage.sub_calls ? count(usage.sub_calls, "sub-call") : "", usage.cost_usd === null ? "" : money(usage.cost_usd), span(usage.seconds), cited ? `${num(verified)} of ${count(cited, "citation")} verified` : ""];
  return el("article", { class: "run-box" },
    el("p", { class: "kicker" }, el("span", { class: `status ${tone}` }, run.is_live ? "running" : isWhole ? "completed" : run.stopped_by ? `${run.status}, ${run.stopped_by}` : run.status), el("span", { class: "mono" }, run.id), el("time", { datetime: line(run.created_at, 40) }, moment(run.created_at))),
    el("h3", {}, run.href ? el("a", { href: run.href }, question) : question),
    run.answer ? el("p", { class: "soft answer-head" }, line(run.answer, 240)) : null,
    el("p", { class: "facts" }, facts.filter(Boolean).join(" · "), run.href ? "" : el("span", {}, " · ", el("code", {}, `rlm-mcp runs view ${run.id}`), " writes its page")));
}

function contextTable(rows) {
  const heads = ["Name", "Characters", "Lines", "Files", "Registered", "Source", "Id"];
  return el("div", { class: "table-frame" }, el("table", {}, el("thead", {}, el("tr", {}, heads.map((text, index) => el("th", { scope: "col", class: index > 0 && index < 4 ? "right" : null }, text)))),
    el("tbody", {}, rows.map((one) => el("tr", {}, el("td", { class: "path" }, line(one.name, 120), one.version > 1 ? el("span", { class: "soft" }, ` version ${num(one.version)}`) : null), el("td", { class: "right" }, num(one.chars)), el("td", { class: "right" }, num(one.lines)), el("td", { class: "right" }, num(one.files)),
      el("td", {}, moment(one.created_at)), el("td", { class: "path" }, line(one.source, 160)), el("td", { class: "mono" }, one.context_id))))));
}

function moment(text) {
  return line(text, 40).replace("T", " ").replace(/(\.\d+)?(\+00:00|Z)$/, " UTC");
}

async function follow() {
  try {
    const answer = await fetch(`data?seen=${data.changes}`, { cache: "no-store" });
    if (answer.status === 200) {
      Object.assign(data, await answer.json());
      show();
    }
  } catch {
    notes.replaceChildren(el("p", { class: "note-line" }, "The server of this page has stopped, so the page no longer follows the runs."));
    return;
  }
  setTimeout(follow, POLL_MILLISECONDS);
}
