// The turns of one run for reading: what the model wrote, what its code did, and what followed.

const OUTPUT_LINES = 16;

function turnBox(node, head, { onShow, prefix = "" }) {
  const box = el("article", { class: "turn-box", id: `${prefix}turn-${node.number}`, tabindex: "-1" });
  const usage = node.usage ? [`${num(node.usage.prompt_tokens)} tokens in, ${num(node.usage.completion_tokens)} out`] : [];
  box.append(el("h3", {}, `Turn ${num(node.number)}`, el("span", { class: "soft" }, [span(node.end - node.start), ...usage].join(" · "))));
  for (const child of node.children) {
    if (child.kind === "reply") box.append(replyBox(child, head));
    else if (child.kind === "cell") box.append(cellBox(child, head, { onShow, hasCode: !saysSo(node, child) }));
  }
  for (const row of node.decided) box.append(el("p", { class: "decided" }, decision(row)));
  return box;
}

// Whether the reply of this turn already shows the block.
function saysSo(turn, cell) {
  if (cell.isOpen || cell.row.error?.line) return false;
  const said = turn.children.find((child) => child.kind === "reply");
  const cells = turn.children.filter((child) => child.kind === "cell");
  return cells.length === 1 && typeof said?.row.text === "string" && typeof cell.row.code === "string" && cell.row.code !== "" && said.row.text.includes(cell.row.code.trim());
}

function decision(row) {
  if (row.step === "finish") return `The answer was set by ${row.why}${row.detail ? `, and was doubted: ${row.detail}` : ""}.`;
  const why = { output: "The model is shown the output", nudge: "The model is asked for code", doubt: "The answer is doubted and the model asked again", restart: "The dialogue starts over", press: "The model is pressed for the final step", read: "The lines that were found do not support the model's reading; it is asked for code" }[row.why] ?? row.why;
  return row.detail ? `${why}: ${row.detail}` : `${why}.`;
}

function replyBox(node, head) {
  const { row } = node;
  const command = `rlm-mcp runs export ${head.id}`;
  const facts = [row.model, span(node.end - node.start), `${num(row.tokens[0])} tokens in${row.cached_tokens ? ` (${num(row.cached_tokens)} cached)` : ""}, ${num(row.tokens[1])} out`, row.cost === null ? "" : money(row.cost), row.finish === "stop" ? "" : row.finish, row.last];
  const box = el("div", { class: "said" }, el("p", { class: "facts" }, el("b", {}, "Model"), " ", facts.filter(Boolean).join(" · ")));
  if (!isEmpty(row.told)) box.append(el("details", { class: "told" }, el("summary", {}, "Prompt"), sayCut(el("pre", { class: "output" }), row.told, command)));
  box.append(isEmpty(row.text) ? el("p", { class: "soft" }, "The reply is empty.") : reply(row.text, command));
  return box;
}

function cellBox(node, head, { onShow, hasCode }) {
  const { row } = node;
  const command = `rlm-mcp runs export ${head.id}`;
  const box = el("div", { class: "ran" });
  if (node.isOpen) {
    box.append(el("p", { class: "facts" }, el("b", {}, "Code"), " ", head.is_live ? "running" : "cut off", ` · ${count(node.children.length, "sub-call")} so far`));
    return box;
  }
  const facts = [span(node.end - node.start), row.stopped_by ? `stopped: ${row.stopped_by}` : "", row.undone ? "undone" : "", row.changed.length ? `changed ${row.changed.slice(0, 8).map((name) => line(name, 40)).join(", ")}${row.changed.length > 8 ? " …" : ""}` : ""];
  box.append(el("p", { class: "facts" }, el("b", {}, row.block > 1 ? `Code ${row.block}` : "Code"), " ", facts.filter(Boolean).join(" · ")));
  if (hasCode) box.append(codeBlock(row.code, command, row.error?.line ?? 0));
  if (node.children.length) box.append(callsLine(node, onShow));
  const output = [];
  if (!isEmpty(row.stdout)) output.push(clamped(row.stdout, command, row.stdout_chars));
  if (!isEmpty(row.stderr)) output.push(clamped(row.stderr, command, 0, "stderr"));
  if (!isEmpty(row.value)) output.push(clamped(row.value, command, 0, "value"));
  if (row.error) output.push(clamped(isEmpty(row.error.traceback) ? `${row.error.type}: ${whole(row.error.message)}` : row.error.traceback, command, 0, "error"));
  for (const note of row.notes) output.push(el("p", { class: "decided" }, note));
  box.append(...(output.length ? output : [el("p", { class: "soft small" }, "No output.")]));
  return box;
}

function callsLine(node, onShow) {
  const { children } = node;
  const runs = children.filter((child) => child.kind === "run").length;
  const text = [runs < children.length ? count(children.length - runs, "sub-call") : "", runs ? count(runs, "child run") : ""].filter(Boolean).join(" and ");
  const failed = children.filter((child) => child.failed).length;
  const box = el("p", { class: "calls-line" }, onShow ? el("button", { type: "button", class: "link", on: { click: () => onShow(node) } }, `${text} in the timeline`) : el("span", {}, text),
    el("span", { class: "soft" }, ` ${num(node.flight.most)} at once`), failed ? el("span", { class: "bad" }, ` ${num(failed)} failed`) : null);
  const shape = el("span", { class: "calls-shape" }, flightShape(node.flight, node.start, node.end));
  box.prepend(shape);
  return box;
}

// The first lines of an output; all that the page has on request and on paper.
function clamped(cut, command, chars, kind = "stdout") {
  const shown = sayCut(el("pre", { class: `output ${kind}`, tabindex: "0", "aria-label": kind === "stdout" ? "output" : kind }), cut, command);
  const box = el("div", { class: "output-box" }, shown);
  const text = whole(cut);
  const lines = text.split("\n").length;
  if (typeof cut === "string" && chars > cut.length) shown.append(el("span", { class: "left-out" }, `The sandbox kept ${num(cut.length)} of the ${num(chars)} characters that were printed.`));
  if (lines > OUTPUT_LINES + 4 || text.length > 4000) {
    box.classList.add("clamped");
    const more = el("button", { type: "button", class: "link more", "aria-expanded": "false" }, `Show all ${count(lines, "line")}`);
    more.addEventListener("click", () => {
      const isOpen = !box.classList.toggle("clamped");
      more.setAttribute("aria-expanded", String(isOpen));
      more.textContent = isOpen ? "Show less" : `Show all ${count(lines, "line")}`;
    });
    box.append(more);
  }
  return box;
}
