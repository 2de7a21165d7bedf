// Two runs side by side: answers, figures, citations, coverage, and the turns that match.

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const { facts, runs } = data;
const plans = runs.map((run) => plant(run.head, run.rows));
const theme = themeButton();

page.append(el("main", { class: "compare" }, head(), section("Answers", answers()), section("Figures", figures()), section("Citations", citationTable()), section("Coverage", coverages()), section("Turns", turns())));
document.addEventListener("keydown", (event) => {
  if (event.key === "t" && !event.ctrlKey && !event.metaKey && !event.altKey) theme.click();
});

function section(name, ...content) {
  const id = name.toLowerCase();
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, name), ...content);
}

function head() {
  const { same } = facts;
  const queries = same.query ? [facts.runs[0].query] : facts.runs.map((run) => run.query);
  const verdicts = [same.query ? "the same question" : "different questions", same.contexts ? "the same contexts" : "different contexts", same.answer ? "the same answer" : "different answers"];
  return el("header", { class: "top" }, el("p", { class: "kicker" }, "Two runs compared", el("span", {}, verdicts.join(", ")), theme),
    queries.map((query, index) => sayCut(el("h1", { class: whole(query).length > 200 ? "long" : null }, same.query ? "" : `${"AB"[index]}: `), query, "rlm-mcp runs export")));
}

function figures() {
  const both = facts.runs;
  const rows = [
    ["Run", (run) => run.id, null],
    ["Begun", (run) => line(run.created_at, 40).slice(0, 19).replace("T", " "), null],
    ["Models", (run) => [run.models.root, run.models.sub].filter((name, index, all) => name && all.indexOf(name) === index).join(", "), null],
    ["Ended", (run) => [run.status, run.stopped_by].filter(Boolean).join(", "), null],
    ["Answered by", (run) => run.answered_by || "–", null],
    ["Turns", (run) => run.turns, num],
    ["Sub-calls", (run) => run.usage.sub_calls, num],
    ["Answered from the cache", (run) => run.usage.cached_calls, num],
    ["Failed calls", (run) => run.usage.failed_calls, num],
    ["Asked in vain", (run) => run.usage.calls_in_vain, num],
    ["Tokens in", (run) => run.usage.prompt_tokens, num],
    ["Tokens out", (run) => run.usage.completion_tokens, num],
    ["Cost", (run) => run.usage.cost_usd, money],
    ["Time", (run) => run.usage.seconds, span],
    ["Answer, characters", (run) => run.answer_chars, num],
    ["Read by code", (run) => (run.coverage ? percent(run.coverage.code, run.coverage.total) : "–"), null],
    ["Read by models", (run) => (run.coverage ? percent(run.coverage.model, run.coverage.total) : "–"), null],
    ["Citations", (run) => `${run.citations.verified} verified, ${run.citations.corrected} corrected, ${run.citations.unverified} not found`, null],
  ];
  return el("div", { class: "table-frame" }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ""), el("th", { scope: "col", class: "right" }, "A"), el("th", { scope: "col", class: "right" }, "B"), el("th", { scope: "col", class: "right" }, "B against A"))),
    el("tbody", {}, rows.map(([name, of, show]) => {
      const values = both.map(of);
      const cells = values.map((value) => el("td", { class: "right" }, show ? show(value) : value));
      return el("tr", {}, el("th", { scope: "row" }, name), cells, el("td", { class: "right soft" }, show ? change(values, show) : ""));
    }))));
}

function change([one, other], show) {
  if (one === null || other === null) return "";
  if (one === other) return "same";
  const more = other > one;
  const share = one ? ` (${more ? "+" : "−"}${Math.abs((100 * (other - one)) / one).toFixed(0)} %)` : "";
  return `${more ? "+" : "−"}${show(Math.abs(other - one))}${share}`;
}

function answers() {
  const sides = ["first", "second"].map((side, index) => {
    const { head: { answer, message, id } } = runs[index];
    const box = el("div", { class: "side" }, el("h3", {}, "AB"[index], el("span", { class: "soft mono" }, id)));
    const text = el("div", { class: answer?.kind === "json" ? "answer-text json" : "answer-text" });
    if (!answer) text.append(el("span", { class: "soft" }, message || "There is no answer."));
    else if (facts.answer) {
      for (const [where, part] of facts.answer) {
        if (where === "both") say(text, part);
        else if (where === side) text.append(say(el(side === "first" ? "del" : "ins", {}), part));
      }
    } else sayCut(text, answer.text, `rlm-mcp runs show ${id}`);
    box.append(text);
    return box;
  });
  const note = facts.answer === null ? el("p", { class: "note-line" }, "The answers are too long to be compared word by word.") : facts.same.answer ? el("p", { class: "soft" }, "Both answers are the same.") : null;
  return el("div", {}, note, el("div", { class: "sides" }, sides));
}

function citationTable() {
  if (!facts.citations.length) return el("p", { class: "soft" }, "Neither run cited anything.");
  const words = { verified: "verified", corrected: "corrected", unverified: "not found" };
  const state = (name) => (name ? el("span", { class: `state ${name}` }, mark(name), words[name]) : el("span", { class: "soft" }, "not cited"));
  return el("div", { class: "table-frame" }, el("table", { class: "cited-table" }, el("thead", {}, el("tr", {}, ["A", "B", "Place", "Quote"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, facts.citations.map((one) => el("tr", {}, el("td", {}, state(one.first)), el("td", {}, state(one.second)),
      el("td", { class: "path" }, one.path ? `${one.path}:${one.start_line}${one.end_line > one.start_line ? `–${one.end_line}` : ""}` : "no place"), el("td", { class: "path" }, line(whole(one.quote), 240)))))));
}

function coverages() {
  return el("div", {}, runs.map((run, index) => el("div", {}, el("h3", {}, "AB"[index], el("span", { class: "soft mono" }, run.head.id)),
    run.coverage ? run.coverage.strips.slice(0, 20).map((strip) => stripBox(strip, run.head.citations.map(() => null))) : el("p", { class: "soft" }, "The record does not say what was read."))));
}

function turns() {
  const byNumber = plans.map((plan) => new Map(plan.root.turns.map((turn) => [turn.number, turn])));
  if (!facts.turns.length) return el("p", { class: "soft" }, "Neither run has turns on record.");
  return el("div", { class: "pairs" }, facts.turns.map((pair) => el("div", { class: "pair" }, pair.same_code ? el("p", { class: "same-code" }, "the same code") : null,
    el("div", { class: "sides" }, ["first", "second"].map((side, index) => {
      const turn = byNumber[index].get(pair[side]);
      return el("div", { class: "side" }, turn ? turnBox(turn, runs[index].head, { onShow: null, prefix: `${"ab"[index]}-` }) : el("p", { class: "soft" }, "No such turn."));
    })))));
}
