// Elements, texts and numbers. Text enters the document only here, as text nodes; no script of the page parses markup.

const HIDDEN = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

function el(tag, props, ...children) {
  const node = document.createElement(tag);
  fill(node, props, children);
  return node;
}

function svg(tag, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(node, props, children);
  return node;
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    if (child instanceof Node) node.append(child);
    else say(node, String(child));
  }
}

// Appends text. Characters that are invisible, or that reorder others, are shown by their code points.
function say(node, text) {
  text = text.replaceAll("\r\n", "\n");
  let last = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (found.index > last) node.append(text.slice(last, found.index));
    const mark = document.createElement("span");
    mark.className = "hidden-char";
    mark.append(`U+${found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
    node.append(mark);
    last = found.index + found[0].length;
  }
  if (last < text.length) node.append(last ? text.slice(last) : text);
  return node;
}

// The same as a string of one line, for attributes and labels.
function line(text, most = 200) {
  const short = text.length > most * 2 ? text.slice(0, most * 2) : text;
  const one = short.replace(/\s+/g, " ").trim().replace(HIDDEN, (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
  return one.length > most ? `${one.slice(0, most - 1)}…` : one;
}

// --- texts that may be cut: a string, or {head, tail, chars}

function whole(cut) {
  return typeof cut === "string" ? cut : `${cut.head}\n…\n${cut.tail}`;
}

function isEmpty(cut) {
  return cut === "" || cut === null || cut === undefined;
}

// Appends a text. If it was cut, a sentence says how much is missing and which command prints it.
function sayCut(node, cut, command, add = say) {
  if (typeof cut === "string") return add(node, cut), node;
  add(node, cut.head);
  const missing = cut.chars - cut.head.length - cut.tail.length;
  node.append(el("span", { class: "left-out" }, `${num(missing)} of ${num(cut.chars)} characters are left out here; `,
    el("code", {}, command), " prints them all"));
  add(node, cut.tail);
  return node;
}

// --- numbers

function num(value) {
  return Number(value ?? 0).toLocaleString("en-US");
}

function count(value, one, many) {
  return `${num(value)} ${value === 1 ? one : (many ?? `${one}s`)}`;
}

function span(seconds) {
  if (seconds < 0.0005) return "0 s";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const round = Math.round(seconds);
  const [minutes, rest] = [Math.floor(round / 60), round % 60];
  if (minutes < 60) return `${minutes} min ${String(rest).padStart(2, "0")} s`;
  return `${num(Math.floor(minutes / 60))} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function money(dollars) {
  if (dollars === null || dollars === undefined) return "price unknown";
  if (dollars === 0) return "$0";
  return `$${dollars < 0.01 ? dollars.toPrecision(2) : dollars.toFixed(dollars < 1 ? 4 : 2)}`;
}

function percent(part, all) {
  if (!all || !part) return "0 %";
  const share = (100 * part) / all;
  if (share >= 99.95 && part < all) return "99.9 %";
  return `${share < 0.01 ? "<0.01" : share < 1 ? share.toFixed(2) : share < 99.95 ? share.toFixed(1) : "100"} %`;
}

// --- marks, drawn as paths so that they need no font

const MARKS = {
  verified: "M2.5 6.5 5 9 9.5 3.5",
  corrected: "M2 4.5h7L7 2.5M10 7.5H3l2 2",
  unverified: "M3 3l6 6M9 3 3 9",
};

function mark(name) {
  return svg("svg", { class: "mark", viewBox: "0 0 12 12", "aria-hidden": "true" }, svg("path", { d: MARKS[name] }));
}

// --- search: highlights matches without changing the document, in browsers that can

function highlight(words, root) {
  if (!globalThis.CSS?.highlights) return;
  CSS.highlights.delete("found");
  if (!words.length) return;
  const ranges = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node && ranges.length < 3000; node = walker.nextNode()) {
    const text = node.data.toLowerCase();
    for (const word of words) {
      for (let at = text.indexOf(word); at >= 0 && ranges.length < 3000; at = text.indexOf(word, at + word.length)) {
        if (at + word.length > node.length) break;
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, at + word.length);
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}
