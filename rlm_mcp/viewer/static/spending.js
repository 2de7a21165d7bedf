// Spending by kind of call and by turn, and against the limits.

const LIMITS = {
  max_sub_calls: ["sub-calls", (usage) => usage.sub_calls, num],
  max_tokens: ["tokens", (usage) => usage.prompt_tokens + usage.completion_tokens, num],
  max_usd: ["dollars", (usage) => usage.cost_usd ?? 0, money],
  max_seconds: ["time", (usage) => usage.seconds, span],
  max_iterations: ["turns", null, num],
};

function spendingBox(head, plan) {
  const box = el("div", { class: "spending" });
  box.append(kindTable(head, plan), turnTable(plan));
  const limits = Object.entries(LIMITS).filter(([name]) => head.limits[name]);
  if (limits.length) {
    box.append(el("p", { class: "soft limits" }, "Limits: ", limits.map(([name, [what, of, show]]) => {
      const spent = of ? of(head.usage) : head.turns;
      return `${what} ${show(spent)} of ${show(head.limits[name])}`;
    }).join(" · ")));
  }
  return box;
}

function kindTable(head, plan) {
  const replies = [...plan.nodes.values()].filter((node) => node.kind === "reply");
  const root = tally(replies.filter((node) => !node.path));
  const children = tally(replies.filter((node) => node.path));
  const { usage } = head;
  const rest = {
    calls: usage.sub_calls,
    in: Math.max(0, usage.prompt_tokens - root.in - children.in),
    out: Math.max(0, usage.completion_tokens - root.out - children.out),
    cost: usage.cost_usd === null ? null : Math.max(0, usage.cost_usd - (root.cost ?? 0) - (children.cost ?? 0)),
    seconds: sum([...plan.nodes.values()], (node) => (node.kind === "call" ? node.end - node.asked : 0)),
  };
  const rows = [["Root model", head.models.root, root]];
  if (children.calls) rows.push(["Child runs", head.models.sub, children]);
  if (usage.sub_calls || rest.in) rows.push(["Sub-calls", head.models.sub, rest]);
  const all = { calls: usage.root_calls + usage.sub_calls, in: usage.prompt_tokens, out: usage.completion_tokens, cost: usage.cost_usd };
  const most = Math.max(1, ...rows.map(([, , facts]) => facts.in + facts.out));
  const row = ([name, model, facts], isTotal) => el("tr", { class: isTotal ? "total" : null },
    el("th", { scope: "row" }, name, model ? el("span", { class: "soft" }, ` ${model}`) : null),
    el("td", { class: "right" }, num(facts.calls)), el("td", { class: "right" }, num(facts.in)), el("td", { class: "right" }, num(facts.out)),
    el("td", { class: "right" }, facts.cost === null ? "–" : money(facts.cost)),
    el("td", { class: "right" }, facts.seconds === undefined ? "" : span(facts.seconds)),
    el("td", { class: "meter-cell" }, isTotal ? null : meter((facts.in + facts.out) / most, `${num(facts.in + facts.out)} tokens`)));
  return el("div", { class: "table-frame" }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, ["Calls of", "Calls", "Tokens in", "Tokens out", "Cost", "Call time", "Share of tokens"].map((text, index) => el("th", { scope: "col", class: index && index < 6 ? "right" : null }, text)))),
    el("tbody", {}, rows.map((facts) => row(facts, false)), rows.length > 1 ? row(["Total", "", all], true) : null)));
}

function tally(replies) {
  return {
    calls: replies.length,
    in: sum(replies, (node) => node.row.tokens[0]),
    out: sum(replies, (node) => node.row.tokens[1]),
    cost: replies.some((node) => node.row.cost === null) ? null : sum(replies, (node) => node.row.cost),
    seconds: sum(replies, (node) => node.end - node.start),
  };
}

function turnTable(plan) {
  const turns = plan.root.turns.filter((turn) => turn.usage);
  if (turns.length < 2) return el("div", {});
  const most = Math.max(1, ...turns.map((turn) => turn.usage.prompt_tokens + turn.usage.completion_tokens));
  const of = (turn, kind) => sum(turn.children, (child) => (child.kind === kind ? child.end - child.start : 0));
  return el("div", { class: "table-frame" }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, ["Turn", "Sub-calls", "Tokens in", "Tokens out", "Cost", "Model", "Code and its calls", "Share of tokens"].map((text, index) => el("th", { scope: "col", class: index && index < 7 ? "right" : null }, text)))),
    el("tbody", {}, turns.map((turn) => el("tr", {}, el("th", { scope: "row" }, el("a", { href: `#turn-${turn.number}` }, `Turn ${num(turn.number)}`)),
      el("td", { class: "right" }, num(turn.usage.sub_calls)), el("td", { class: "right" }, num(turn.usage.prompt_tokens)), el("td", { class: "right" }, num(turn.usage.completion_tokens)),
      el("td", { class: "right" }, turn.usage.cost_usd === null ? "–" : money(turn.usage.cost_usd)), el("td", { class: "right" }, span(of(turn, "reply"))), el("td", { class: "right" }, span(of(turn, "cell"))),
      el("td", { class: "meter-cell" }, meter((turn.usage.prompt_tokens + turn.usage.completion_tokens) / most, `${num(turn.usage.prompt_tokens + turn.usage.completion_tokens)} tokens`)))))));
}

function meter(share, label) {
  const bar = el("span", { class: "meter-bar" });
  bar.style.width = `${Math.max(0.5, 100 * share)}%`;
  return el("span", { class: "meter", role: "img", "aria-label": label }, bar);
}
