// The answer and its citations, each shown with the lines around it.

const STATES = {
  verified: ["verified", "The stored text holds this quote at exactly these lines."],
  corrected: ["corrected", "The quote was found at other lines than those cited. These are the lines that hold it."],
  unverified: ["not found", "The stored text does not hold this quote. Do not rely on it."],
};
const OPEN_PASSAGES = 20;
const LONG_ANSWER_CHARS = 8000;

function answerBox(head) {
  const box = el("div", { class: "answer" });
  if (!head.answer) {
    const why = head.status === "running" ? "The run is still going." : head.message || "There is no answer.";
    box.append(el("p", { class: "no-answer" }, why));
    return box;
  }
  const { text, kind } = head.answer;
  const command = `rlm-mcp runs show ${head.id}`;
  const body = el("div", { class: kind === "json" ? "answer-text json" : "answer-text", tabindex: "-1" });
  sayCut(body, text, command, (node, part) => sayLinked(node, part, head.citations));
  box.append(body);
  if (whole(text).length > LONG_ANSWER_CHARS) clampAnswer(box, body);
  if (head.message) box.append(el("p", { class: "message" }, head.message));
  return box;
}

// Shows the beginning of a long answer until the reader opens all of it or follows a link into it.
function clampAnswer(box, body) {
  const more = el("button", { type: "button", class: "link" }, "Show the whole answer");
  const open = () => {
    body.classList.remove("clamped");
    more.remove();
  };
  body.classList.add("clamped");
  box.append(more);
  more.addEventListener("click", open);
  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith("#quoted-") && more.isConnected) {
      open();
      document.getElementById(location.hash.slice(1))?.scrollIntoView();
    }
  });
}

// The answer with a number after each passage that a citation quotes, whether it was verified or not.
function sayLinked(node, text, citations) {
  const found = [];
  citations.forEach((citation, index) => {
    const place = placeIn(text, citation);
    if (place) found.push({ start: place[0], end: place[1], index });
  });
  found.sort((one, other) => one.start - other.start || other.end - one.end);
  let at = 0;
  for (let index = 0; index < found.length; index += 1) {
    const { start, end } = found[index];
    if (start < at) continue;
    say(node, text.slice(at, start));
    const here = found.filter((one) => one.start >= start && one.end <= end);
    const state = citations[here[0].index].state;
    node.append(el("span", { class: `quoted ${state}`, id: `quoted-${here[0].index + 1}` }, text.slice(start, end)), ...here.map((one) => reference(one.index, citations[one.index])));
    at = end;
  }
  say(node, text.slice(at));
}

function placeIn(text, citation) {
  const quote = whole(citation.quote).trim();
  if (quote.length < 4) return null;
  for (const form of new Set([quote, JSON.stringify(quote).slice(1, -1)])) {
    const at = text.indexOf(form);
    if (at >= 0) return [at, at + form.length];
  }
  const bare = text.trim();
  if (bare.length >= 4 && bare.length <= 400 && quote.includes(bare)) {
    const at = text.indexOf(bare);
    return [at, at + bare.length];
  }
  const name = citation.path.split("/").at(-1);
  for (const place of [`${citation.path}:${citation.start_line}`, `${name}:${citation.start_line}`]) {
    const at = text.indexOf(place);
    if (name && at >= 0 && !/\d/.test(text[at + place.length] ?? "")) return [at, at + place.length];
  }
  return null;
}

function reference(index, citation) {
  const label = `citation ${index + 1}, ${STATES[citation.state][0]}`;
  return el("a", { class: `reference ${citation.state}`, href: `#citation-${index + 1}`, "aria-label": label, title: label }, String(index + 1));
}

function evidenceBox(data) {
  const { head, passages } = data;
  const box = el("div", { class: "evidence" });
  if (!head.citations.length) {
    box.append(el("p", { class: "soft" }, head.status === "running" ? "Citations are checked when the run ends." : "The run cited nothing."));
    return box;
  }
  const states = Object.keys(STATES).filter((state) => head.citations.some((one) => one.state === state));
  const list = el("ol", { class: "citations" });
  const chosen = el("div", { class: "choices", role: "group", "aria-label": "Show citations" });
  const choose = (state) => {
    for (const button of chosen.children) button.setAttribute("aria-pressed", String(button.dataset.state === state));
    for (const item of list.children) item.hidden = state !== "" && item.dataset.state !== state;
  };
  const choice = (state, text) => el("button", { type: "button", class: "choice", "data-state": state, "aria-pressed": String(state === ""), on: { click: () => choose(state) } }, text);
  if (states.length > 1) {
    chosen.append(choice("", `All ${num(head.citations.length)}`));
    for (const state of states) chosen.append(choice(state, `${num(head.citations.filter((one) => one.state === state).length)} ${STATES[state][0]}`));
    box.append(chosen);
  }
  head.citations.forEach((citation, index) => list.append(citationItem(data, citation, index, passages[index])));
  box.append(list);
  return box;
}

function citationItem({ head }, citation, index, passage) {
  const [word, meaning] = STATES[citation.state];
  const context = head.contexts.find((one) => one.context_id === citation.context_id);
  const isWhole = !context || context.kind === "text" || context.name === citation.path;
  const file = citation.path ? (isWhole ? citation.path : `${context.name}/${citation.path}`) : citation.context_id || "no place given";
  const lines = citation.start_line < 1 ? "" : citation.end_line > citation.start_line ? `lines ${num(citation.start_line)}–${num(citation.end_line)}` : `line ${num(citation.start_line)}`;
  const item = el("li", { class: `citation ${citation.state}`, id: `citation-${index + 1}`, "data-state": citation.state, tabindex: "-1" });
  const heading = el("div", { class: "citation-head" },
    el("span", { class: "citation-number" }, String(index + 1)),
    el("span", { class: `state ${citation.state}`, title: meaning }, mark(citation.state), word),
    el("span", { class: "place" }, file, lines ? el("span", { class: "soft" }, ` ${lines}`) : null));
  if (document.getElementById(`quoted-${index + 1}`)) heading.append(el("a", { class: "back", href: `#quoted-${index + 1}` }, "in the answer"));
  item.append(heading);
  if (citation.state !== "verified") item.append(el("p", { class: "meaning" }, meaning));
  const shown = passage && !passage.missing ? passageBlock(passage, citation, context?.name ?? "") : quoteBlock(citation, head);
  if (passage?.missing) item.append(el("p", { class: "meaning" }, passage.missing));
  if (index < OPEN_PASSAGES && !isInChat) item.append(shown);
  else item.append(el("details", {}, el("summary", {}, line(whole(citation.quote), 120) || "the cited lines"), shown));
  return item;
}

function quoteBlock(citation, head) {
  return sayCut(el("pre", { class: "passage bare" }), citation.quote, `rlm-mcp runs export ${head.id}`);
}

function passageBlock(passage, citation, name) {
  const command = (from, to) => line(`rlm-mcp inspect ${name} --path ${citation.path} --lines ${from}-${to}`);
  const block = el("pre", { class: "passage", tabindex: "0", "aria-label": "the cited text" });
  let number = passage.first_line;
  const put = (cut, kind, spot) => {
    const row = el("span", { class: `row ${kind}`, "data-n": num(number) });
    if (typeof cut !== "string") sayCut(row, cut, command(number, number));
    else if (spot) row.append(...marked(cut, spot));
    else say(row, cut);
    row.append("\n");
    block.append(row);
    number += 1;
  };
  for (const text of passage.before) put(text, "around");
  const spots = spotsIn(passage.cited, citation);
  passage.cited.forEach((text, index) => put(text, "cited", spots[index]));
  if (passage.cut) block.append(el("span", { class: "left-out" }, "The cited lines go on; ", el("code", {}, command(citation.start_line, citation.end_line)), " prints them all"));
  for (const text of passage.after) put(text, "around");
  return block;
}

// The position of the quote in each of the cited lines.
function spotsIn(lines, citation) {
  if (lines.some((text) => typeof text !== "string") || typeof citation.quote !== "string") return [];
  const quote = citation.quote.replaceAll("\r\n", "\n").replace(/^\n+|\n+$/g, "");
  const joined = lines.join("\n");
  let at = joined.indexOf(quote);
  if (at < 0 || !quote) return [];
  const end = at + quote.length;
  let start = 0;
  return lines.map((text) => {
    const spot = [Math.max(0, at - start), Math.min(text.length, end - start)];
    start += text.length + 1;
    return spot[1] > spot[0] ? spot : null;
  });
}

function marked(text, [from, to]) {
  const box = document.createDocumentFragment();
  say(box, text.slice(0, from));
  box.append(say(el("mark", {}), text.slice(from, to)));
  say(box, text.slice(to));
  return [box];
}
