// What a context is made of, as its overview describes it: facts, tables, headings, and the tree of its files.

const MOST_CELL_CHARS = 300;
const STRUCTURE_NAMES = { largest_files: "largest files", looked_into: "files looked into", repeated_lines: "repeated lines", line_regex: "pattern of lines" };

function contextFigures(context) {
  const figures = [["Characters", num(context.chars)], ["Lines", num(context.lines)], ["Files", num(context.files)], ["Tokens, about", num(context.estimated_tokens)]];
  if (context.version > 1) figures.push(["Version", num(context.version)]);
  return el("dl", { class: "figures-line" }, figures.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

// `onLine(line, path)` is called for a heading that is clicked; without it, headings are text.
function structureBox(structure, onLine = null) {
  const facts = Object.entries(structure).filter(([name]) => name !== "tree");
  return el("dl", { class: "structure" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, structureName(name)), el("dd", {}, shapeOf(value, onLine)))));
}

function structureName(name) {
  return STRUCTURE_NAMES[name] ?? (/[./]/.test(name) ? name : name.replaceAll("_", " ")); // paths stay as they are
}

function shapeOf(value, onLine, path = "") {
  if (value === null || typeof value !== "object") return factText(value);
  if (!Array.isArray(value)) {
    const entries = Object.entries(value);
    if (!entries.length) return "none";
    const isFlat = entries.every(([, one]) => one === null || typeof one !== "object");
    if (isFlat) return entries.map(([name, one]) => `${name} ${factText(one)}`).join(", ");
    return el("dl", { class: "structure" }, entries.map(([name, one]) => el("div", {}, el("dt", {}, structureName(name)), el("dd", {}, shapeOf(one, onLine, name)))));
  }
  if (!value.length) return "none";
  const rows = value.slice(0, -1);
  if (rows.length && typeof value.at(-1) === "string" && rows.every((one) => one !== null && typeof one === "object")) return el("div", {}, shapeOf(rows, onLine, path), value.at(-1)); // "… 3 more"
  if (value.every(isHeading)) return headingList(value, onLine, path);
  if (value.every((one) => one !== null && typeof one === "object" && !Array.isArray(one))) return factTable(value);
  if (value.every((one) => one === null || typeof one !== "object")) {
    const texts = value.map(factText);
    return texts.join("").length < 120 ? texts.join(", ") : el("ul", {}, texts.map((text) => el("li", {}, text)));
  }
  return factText(JSON.stringify(value));
}

function factText(value) {
  const text = typeof value === "number" ? num(value) : typeof value === "boolean" ? (value ? "yes" : "no") : String(value ?? "none");
  return text.length > MOST_CELL_CHARS ? `${text.slice(0, MOST_CELL_CHARS)}…` : text;
}

function isHeading(one) {
  return one !== null && typeof one === "object" && typeof one.line === "number" && typeof one.text === "string";
}

function headingList(headings, onLine, path) {
  return el("ul", { class: "headings" }, headings.map((one) => el("li", {}, onLine ? el("button", { type: "button", class: "link", on: { click: () => onLine(one.line, path) } }, one.text || "(empty)") : one.text, el("span", { class: "soft" }, ` line ${num(one.line)}`))));
}

function factTable(rows) {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (row, name) => el("td", { class: typeof row[name] === "number" ? "right" : null }, row[name] === undefined ? "" : typeof row[name] === "object" ? factText(JSON.stringify(row[name])) : factText(row[name]));
  return el("div", { class: "table-frame" }, el("table", {}, el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col", class: typeof rows[0][name] === "number" ? "right" : null }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, names.map((name) => cell(row, name)))))));
}

// The tree of files, with the sizes that its lines tell. `onFile(path)` is called for a file that is clicked.
function treeBox(tree, onFile = null) {
  return el("ul", { class: "tree" }, tree.map((entry) => {
    const [, path, about] = /^(.*?)( \([^()]*\))?$/s.exec(entry);
    const isFile = about && !path.endsWith("/");
    const name = isFile && onFile ? el("button", { type: "button", class: "link path", on: { click: () => onFile(path) } }, path) : el("span", { class: "path" }, path);
    return el("li", {}, name, about ? el("span", { class: "soft" }, about) : null);
  }));
}
