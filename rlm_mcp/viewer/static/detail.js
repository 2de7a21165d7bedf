// The details of the row that is selected in the timeline.

function detailOf(node, head, { onShow, onRead }) {
  const box = document.createDocumentFragment();
  const command = `rlm-mcp runs export ${head.id}`;
  const where = [];
  for (let up = node; up; up = up.parent) where.unshift(up);
  box.append(el("nav", { class: "trail", "aria-label": "Position in the run" }, where.flatMap((up, index) => [index ? el("span", { "aria-hidden": "true" }, " › ") : null,
    up === node ? el("b", {}, labelOf(up)) : el("button", { type: "button", class: "link", on: { click: () => onShow(up) } }, labelOf(up))]),
    el("span", { class: "soft" }, `  ${span(node.end - node.start)}, from ${span(node.start)} to ${span(node.end)}`)));
  const { row } = node;
  switch (node.kind) {
    case "run":
      box.append(...runDetail(node, head, onRead));
      break;
    case "turn":
      box.append(turnBox(node, head, { onShow, prefix: "detail-" }));
      break;
    case "reply":
      box.append(replyBox(node, head));
      break;
    case "cell":
      box.append(cellBox(node, head, { onShow, hasCode: true }));
      break;
    case "call":
      box.append(el("p", { class: "facts" }, callFacts(node).join(" · ")), el("h3", { class: "piece" }, "Prompt", el("span", { class: "soft" }, ` ${count(row.prompt_chars, "character")}${row.prompt_chars > whole(row.prompt).length ? `, of which the record keeps the first ${num(whole(row.prompt).length)}` : ""}`)),
        sayCut(el("pre", { class: "output", tabindex: "0", "aria-label": "prompt" }), row.prompt, command),
        el("h3", { class: "piece" }, row.failed ? "Failed" : "Reply"), sayCut(el("pre", { class: row.failed ? "output error" : "output", tabindex: "0", "aria-label": "reply" }), row.text, command));
      break;
    default:
      box.append(el("p", {}, `The run was resumed after a pause of ${span(row.pause)}, shown as one second.`));
  }
  return box;
}

function callFacts({ row, start, asked }) {
  const tokens = row.tokens && !row.cached ? `${num(row.tokens[0])} tokens in, ${num(row.tokens[1])} out` : "";
  const cost = row.tokens && !row.cached && row.cost !== null ? money(row.cost) : "";
  return [row.model, row.cached ? "answered from the cache" : "", tokens, cost, asked - start > 0.001 ? `waited ${span(asked - start)} for its turn` : ""].filter(Boolean);
}

function runDetail(node, head, onRead) {
  const parts = [];
  const { ending, way, row } = node;
  const facts = [way?.text || way?.mode, ending ? [ending.status, ending.stopped_by].filter(Boolean).join(", ") : "", count(node.turns.length, "turn"), node.calls ? count(node.calls, "sub-call") : "", node.failures ? `${num(node.failures)} failed` : ""];
  parts.push(el("p", { class: "facts" }, facts.filter(Boolean).join(" · ")));
  if (!node.path) return parts; // question and answer of the whole run are at the top of the page
  if (node.query) parts.push(el("h3", { class: "piece" }, "Question"), say(el("p", { class: "prose" }), node.query));
  const answer = row?.text ?? ending?.text;
  if (!isEmpty(answer)) parts.push(el("h3", { class: "piece" }, row?.failed ? "Failed" : "Answer"), sayCut(el("pre", { class: "output", tabindex: "0", "aria-label": "answer" }), answer, `rlm-mcp runs export ${head.id}`));
  if (ending?.message) parts.push(el("p", { class: "decided" }, ending.message));
  if (node.turns.length) parts.push(el("p", {}, el("button", { type: "button", class: "link", on: { click: () => onRead(node) } }, "Read its turns below")));
  return parts;
}
