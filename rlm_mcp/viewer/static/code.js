// Python with highlighting, and the code blocks in a model's reply.

const PYTHON = new RegExp(
  [
    "(#[^\\n]*)",
    "([rbfuRBFU]{0,2}(?:\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'''[\\s\\S]*?(?:'''|$)|\"(?:\\\\[\\s\\S]|[^\"\\\\\\n])*\"?|'(?:\\\\[\\s\\S]|[^'\\\\\\n])*'?))",
    "(\\b\\d[\\w.]*)",
    "([A-Za-z_]\\w*)",
    "[^\\w\"'#]+|[^]",
  ].join("|"),
  "g",
);
const KEYWORDS = new Set(
  ("False None True and as assert async await break class continue def del elif else except finally for from global if " +
    "import in is lambda match case nonlocal not or pass raise return try while with yield").split(" "),
);
const CALLS = new Set(
  ("llm_query llm_query_batched llm_query_async rlm_query rlm_query_batched classify search cite budget FINAL FINAL_VAR " +
    "SUBMIT SHOW_VARS context contexts answer").split(" "),
);

function tokens(code) {
  const found = [];
  for (const [text, comment, string, number, word] of code.matchAll(PYTHON)) {
    const kind = comment ? "comment" : string ? "string" : number ? "number"
      : word && KEYWORDS.has(word) ? "keyword" : word && CALLS.has(word) ? "call" : "";
    const last = found.at(-1);
    if (last && last[0] === kind) last[1] += text;
    else found.push([kind, text]);
  }
  return found;
}

// A block with line numbers; `wrong` is the line that raised an error.
function codeBlock(cut, command, wrong = 0) {
  const block = el("pre", { class: "code", tabindex: "0", "aria-label": "code" });
  if (typeof cut !== "string") return sayCut(block, cut, command);
  let number = 0;
  let row = null;
  const begin = () => {
    number += 1;
    row = el("span", { class: number === wrong ? "row wrong" : "row", "data-n": number });
    block.append(row);
  };
  begin();
  for (const [kind, text] of tokens(cut.replace(/\n+$/, "").replaceAll("\r\n", "\n"))) {
    text.split("\n").forEach((part, index) => {
      if (index) {
        row.append("\n");
        begin();
      }
      if (part && kind) row.append(say(el("span", { class: `py-${kind}` }), part));
      else if (part) say(row, part);
    });
  }
  return block;
}

// A model's reply, with its fenced blocks as code.
function reply(cut, command) {
  const box = el("div", { class: "reply" });
  if (typeof cut !== "string") {
    box.append(sayCut(el("p", { class: "prose" }), cut, command));
    return box;
  }
  let prose = [];
  let fence = "";
  let block = [];
  const flush = () => {
    const text = prose.join("\n").trim();
    if (text) box.append(say(el("p", { class: "prose" }), text));
    prose = [];
  };
  for (const text of cut.split("\n")) {
    const mark = /^\s*(```+|~~~+)/.exec(text)?.[1] ?? "";
    if (!fence && mark) {
      flush();
      fence = mark;
    } else if (fence && mark.startsWith(fence)) {
      box.append(codeBlock(block.join("\n"), command));
      [fence, block] = ["", []];
    } else {
      (fence ? block : prose).push(text);
    }
  }
  if (fence) box.append(codeBlock(block.join("\n"), command));
  flush();
  return box;
}
