// Turns the rows of the record into a tree of runs, turns, replies, blocks and sub-calls, and selects the visible part.

function plant(head, rows) {
  const runs = new Map();
  const turns = new Map();
  const waiting = new Map(); // sub-calls and child runs by "path turn", until the row of their block
  const nodes = new Map();

  const node = (kind, id, facts) => {
    const made = { kind, id, children: [], parent: null, row: null, failed: false, start: 0, end: 0, ...facts };
    nodes.set(id, made);
    return made;
  };
  const adopt = (parent, child) => {
    child.parent = parent;
    parent.children.push(child);
  };
  const runAt = (path) => {
    if (!runs.has(path)) {
      const made = node("run", `run ${path}`, { path, turns: [], way: null, ending: null, query: "" });
      runs.set(path, made);
      if (path) {
        const up = path.split(".").slice(0, -1).join(".");
        runAt(up);
        made.up = up;
      }
    }
    return runs.get(path);
  };
  const turnAt = (path, number) => {
    const id = `turn ${path} ${number}`;
    if (!turns.has(id)) {
      const made = node("turn", id, { path, number, decided: [] });
      const run = runAt(path);
      run.turns.push(made);
      adopt(run, made);
      turns.set(id, made);
    }
    return turns.get(id);
  };
  const queue = (path, turn) => {
    const id = `${path} ${turn}`;
    if (!waiting.has(id)) waiting.set(id, []);
    return waiting.get(id);
  };
  const placed = new Set();

  const root = runAt("");
  root.query = whole(head.query);
  rows.forEach((row, index) => {
    const { path, turn, start, end } = row;
    const run = runAt(path);
    const facts = { row, path, turn, start, end };
    if (!path && row.spent && (row.spent.prompt_tokens || row.spent.completion_tokens)) charge(turnAt(path, turn), run, row.spent);
    switch (row.kind) {
      case "routed":
        run.way = row;
        run.query ||= whole(row.query);
        break;
      case "reply":
        adopt(turnAt(path, turn), node("reply", `row ${index}`, facts));
        break;
      case "call": {
        const inner = row.child ? (path ? `${path}.${row.child}` : row.child) : "";
        if (inner) {
          const child = runAt(inner);
          Object.assign(child, { row, turn, start, end, failed: row.failed, query: whole(row.prompt) });
          placed.add(inner);
          queue(path, turn).push(child);
        } else {
          queue(path, turn).push(node("call", `row ${index}`, { ...facts, failed: row.failed, asked: askedAt(row) }));
        }
        break;
      }
      case "cell": {
        const cell = node("cell", `row ${index}`, { ...facts, failed: row.error !== null || row.stopped_by !== "" });
        adopt(turnAt(path, turn), cell);
        const calls = queue(path, turn).splice(0).sort((one, other) => (one.asked ?? one.start) - (other.asked ?? other.start) || one.end - other.end);
        for (const call of calls) adopt(cell, call);
        break;
      }
      case "decided":
        turnAt(path, turn).decided.push(row);
        break;
      case "resumed":
        adopt(root, node("resumed", `row ${index}`, facts));
        break;
      case "ended":
        run.ending = row;
        break;
    }
  });
  // Child runs that have not ended, and sub-calls of a block that has not, belong to the block that is running.
  for (const [path, run] of runs) if (path && !placed.has(path)) {
    queue(run.up, lastTurn(runs.get(run.up))).push(run);
  }
  for (const [id, calls] of waiting) {
    if (!calls.length) continue;
    const at = id.lastIndexOf(" ");
    const turn = turnAt(id.slice(0, at), Number(id.slice(at + 1)) || 1);
    const cell = node("cell", `open ${id}`, { path: turn.path, turn: turn.number, isOpen: true });
    adopt(turn, cell);
    for (const call of calls) adopt(cell, call);
  }
  settle(root);
  root.end = Math.max(root.end, head.end);
  root.start = 0;
  return { root, runs, nodes, end: Math.max(root.end, 0.001) };
}

// The time at which a sub-call was sent; before that it waited for its turn.
function askedAt(row) {
  return row.asked_seconds ? Math.max(row.start, row.end - row.asked_seconds) : row.start;
}

// Tokens and dollars of everything below a node; null if a sub-call has none recorded.
function usageOf(node) {
  const { row, children } = node;
  if (node.kind === "reply" || (node.kind === "call" && row.tokens)) {
    const cost = row.tokens[0] + row.tokens[1] ? row.cost : 0; // a refused call costs nothing, which is not recorded
    return { prompt_tokens: row.tokens[0], completion_tokens: row.tokens[1], cost_usd: cost, sub_calls: node.kind === "call" && !row.cached ? 1 : 0 };
  }
  if (node.kind === "call") return null;
  const total = { prompt_tokens: 0, completion_tokens: 0, cost_usd: 0, sub_calls: 0 };
  for (const child of children) {
    const own = child.below === undefined ? usageOf(child) : child.below;
    if (own === null) return null;
    for (const name of Object.keys(total)) total[name] = total[name] === null || own[name] === null ? null : total[name] + own[name];
  }
  return total;
}

// Older records have only the totals of the run: a turn cost as much as these grew.
function charge(turn, run, spent) {
  turn.before ??= run.spent ?? {};
  run.spent = spent;
  turn.grown = {};
  for (const name of Object.keys(spent)) {
    const known = spent[name] !== null && turn.before[name] !== null;
    turn.grown[name] = known ? Math.max(0, spent[name] - (turn.before[name] ?? 0)) : null;
  }
}

function lastTurn(run) {
  return run.turns.at(-1)?.number ?? 1;
}

// Times, numbers and labels computed from the children.
function settle(node) {
  const { children } = node;
  children.forEach(settle);
  if (children.length) {
    const first = children.reduce((least, child) => Math.min(least, child.start), Infinity);
    const last = children.reduce((most, child) => Math.max(most, child.end), 0);
    node.start = node.row ? Math.min(node.start, first) : first;
    node.end = node.row ? Math.max(node.end, last) : last;
  }
  node.calls = sum(children, (child) => (child.kind === "call" || (child.kind === "run" && child.row) ? 1 : 0) + (child.calls ?? 0));
  node.failures = sum(children, (child) => (child.failed ? 1 : 0) + (child.failures ?? 0));
  node.below = usageOf(node);
  node.usage = node.ending?.usage ?? node.below ?? node.grown ?? node.spent ?? null;
  if (node.kind === "cell") {
    node.flight = flight(children);
    const prefix = commonStart(children.filter((child) => child.kind === "call").map((child) => whole(child.row.prompt)));
    children.forEach((child, index) => {
      child.number = index + 1;
      child.skip = prefix;
    });
  }
  if (node.kind === "run") {
    node.replies = sum(node.turns, (turn) => sum(turn.children, (child) => (child.kind === "reply" ? 1 : 0)));
  }
}

function sum(items, of) {
  return items.reduce((total, item) => total + of(item), 0);
}

// The number in flight over time, as [moment, number] steps, and its maximum.
function flight(items) {
  const edges = [];
  for (const { start, asked, end } of items) edges.push([asked ?? start, 1], [Math.max(end, start), -1]);
  edges.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
  const steps = [];
  let now = 0;
  let most = items.length ? 1 : 0;
  for (const [at, change] of edges) {
    now += change;
    most = Math.max(most, now);
    if (steps.length && steps.at(-1)[0] === at) steps.at(-1)[1] = now;
    else steps.push([at, now]);
  }
  return { steps, most };
}

// The length of the common beginning of all prompts of a batch, which distinguishes none; it ends at a word.
function commonStart(texts) {
  if (texts.length < 2) return 0;
  let length = texts[0].length;
  for (const text of texts) {
    let at = 0;
    while (at < length && at < text.length && text[at] === texts[0][at]) at += 1;
    length = at;
  }
  if (texts.every((text) => text.length === length)) return 0;
  while (length > 0 && /\w/.test(texts[0][length - 1])) length -= 1;
  return length > 20 ? length : 0;
}

function labelOf(node) {
  switch (node.kind) {
    case "run":
      return node.path ? `Run ${node.path.split(".").at(-1)}` : "Run";
    case "turn":
      return `Turn ${node.number}`;
    case "reply":
      return "Model";
    case "cell":
      return node.isOpen ? "Code, still running" : node.row.block > 1 ? `Code ${node.row.block}` : "Code";
    case "call":
      return `Sub-call ${num(node.number ?? 1)}`;
    default:
      return "Resumed";
  }
}

function noteOf(node) {
  switch (node.kind) {
    case "run":
      return line(node.query, 160);
    case "turn": {
      const final = node.decided.find((row) => row.step === "finish");
      const doubt = node.decided.find((row) => row.detail);
      const calls = node.calls ? `${count(node.calls, "sub-call")}${node.failures ? `, ${num(node.failures)} failed` : ""}` : "";
      const prose = calls || final ? "" : whole(node.children.find((child) => child.kind === "reply")?.row.text ?? "").split("```")[0];
      return line([final ? `final answer by ${final.why}` : "", doubt ? doubt.detail : "", calls, prose].filter(Boolean).join(" · "), 160);
    }
    case "reply":
      return line(whole(node.row.text).replace(/```\w*/g, " "), 160);
    case "cell": {
      if (node.isOpen) return "";
      const { error, stopped_by: stopped, stdout, value } = node.row;
      const what = error ? `${error.type}: ${whole(error.message)}` : stopped ? `stopped: ${stopped}` : whole(value) || whole(stdout);
      const calls = node.children.length ? `${count(node.children.length, "sub-call")}, ${node.flight.most} at once` : "";
      return [calls, line(what, 120)].filter(Boolean).join(" · ");
    }
    case "call":
      return (node.row.cached ? "from the cache · " : "") + line((node.skip ? "…" : "") + whole(node.row.prompt).slice(node.skip), 160);
    default:
      return `after a pause of ${span(node.row.pause)}`;
  }
}

// --- visible rows

const VIEWS = {
  all: ["All", () => true],
  runs: ["Runs", (node) => node.kind === "run"],
  replies: ["Replies", (node) => node.kind === "reply"],
  code: ["Code", (node) => node.kind === "cell"],
  calls: ["Sub-calls", (node) => node.kind === "call"],
  failed: ["Failed", (node) => node.failed],
};

function textOf(node) {
  if (node.text === undefined) {
    const { row } = node;
    const parts = [labelOf(node), node.query ?? ""];
    if (row) for (const name of ["text", "prompt", "code", "stdout", "value", "told", "model", "stderr"]) if (row[name]) parts.push(whole(row[name]));
    if (row?.error) parts.push(row.error.type, whole(row.error.message));
    if (node.decided) for (const one of node.decided) parts.push(one.why, one.detail);
    node.text = parts.join("\n").toLowerCase();
  }
  return node.text;
}

// The rows to show, in order, as [{node, level, isOpen, hasMore}], and how many of them matched.
function visible(root, { view, words, opened, closed }) {
  const shown = [];
  const isPlain = view === "all" && !words.length;
  if (isPlain) {
    const walk = (node, level) => {
      const isOpen = opened.has(node.id);
      shown.push({ node, level, isOpen, hasMore: node.children.length > 0 });
      if (isOpen) for (const child of node.children) walk(child, level + 1);
    };
    walk(root, 1);
    return { shown, found: shown.length, isPlain };
  }
  const wanted = VIEWS[view][1];
  const isFound = (node) => wanted(node) && words.every((word) => textOf(node).includes(word));
  const isFrame = (node) => view === "all" || node.kind === "run" || (node.kind === "turn" && view !== "runs");
  let found = 0;
  const walk = (node, level) => {
    const isHit = isFound(node);
    const at = shown.length;
    const entry = { node, level, isOpen: true, hasMore: false, isHit };
    const isIn = isHit || isFrame(node);
    if (isIn) shown.push(entry);
    let below = 0;
    for (const child of node.children) below += walk(child, isIn ? level + 1 : level);
    if (isHit) found += 1;
    if (isIn && !isHit && !below) {
      shown.length = at;
    } else if (isIn && below) {
      entry.hasMore = true;
      if (closed.has(node.id)) {
        entry.isOpen = false;
        shown.length = at + 1;
      }
    }
    return below + (isHit ? 1 : 0);
  };
  walk(root, 1);
  return { shown, found, isPlain };
}
