// The parts of the contexts that code and models have read: a strip for each context, and a table of files.

function coverageBox(data) {
  const { coverage, head } = data;
  if (!coverage) {
    const why = head.status === "running" ? "Coverage is computed when the run ends." : "The record does not say what was read.";
    return el("p", { class: "soft" }, why);
  }
  const box = el("div", { class: "coverage" });
  box.append(el("p", { class: "sentence" }, "Code read ", el("strong", {}, percent(coverage.code, coverage.total)), ` of ${count(coverage.total, "character")}; models read `,
    el("strong", {}, percent(coverage.model, coverage.total)), ` (${count(coverage.model, "character")}). Both are lower bounds.`));
  const strips = coverage.strips.slice(0, 60);
  for (const strip of strips) box.append(stripBox(strip, head.citations));
  if (coverage.strips.length > strips.length) box.append(el("p", { class: "soft" }, `${count(coverage.strips.length - strips.length, "more context")} not shown.`));
  if (coverage.files_in_all > 1) box.append(fileTable(coverage));
  return box;
}

function stripBox(strip, citations) {
  const bins = strip.code.length;
  const lane = (name, y) => svg("g", { class: `lane-${name}` }, svg("rect", { class: "ground", x: 0, y, width: bins, height: 10 }), runsOf(strip[name]).map(({ from, to, value }) =>
    svg("rect", { x: from, y, width: to - from, height: 10, "fill-opacity": value ? (0.3 + 0.7 * (value / 100)).toFixed(2) : 0 })));
  const drawing = svg("svg", { class: "strip", viewBox: `0 0 ${bins} 24`, preserveAspectRatio: "none", role: "img", "aria-label": `Coverage of ${line(strip.name)}` }, lane("code", 0), lane("model", 13));
  const marks = el("div", { class: "strip-marks" });
  for (const { citation, at } of strip.marks) {
    const known = citations[citation];
    if (!known) continue;
    const link = el("a", { class: `strip-mark ${known.state}`, href: `#citation-${citation + 1}`, "aria-label": `citation ${citation + 1}`, title: `citation ${citation + 1}` });
    link.style.left = `${100 * at}%`;
    marks.append(link);
  }
  const where = el("p", { class: "where", "aria-live": "off" }, `${count(strip.chars, "character")}. Point at the strip for the file and the percentages at that place.`);
  const frame = el("div", { class: "strip-frame" }, drawing, marks);
  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const bin = Math.min(bins - 1, Math.max(0, Math.floor((bins * (event.clientX - box.left)) / box.width)));
    const from = Math.floor((strip.chars * bin) / bins);
    const to = Math.max(from + 1, Math.floor((strip.chars * (bin + 1)) / bins));
    where.textContent = line(`${strip.paths[strip.owners[bin]] ?? strip.name} · characters ${num(from)}–${num(to)} of the context · code ${strip.code[bin]} %, models ${strip.model[bin]} %`, 300);
  });
  return el("div", { class: "strip-box" }, el("div", { class: "strip-name" }, strip.name),
    el("div", { class: "strip-lanes" }, el("span", {}, "code"), el("span", {}, "models")), frame, where);
}

// Adjacent bins with the same value become one rectangle.
function runsOf(values) {
  const found = [];
  values.forEach((value, index) => {
    const last = found.at(-1);
    if (last && last.value === value) last.to = index + 1;
    else found.push({ from: index, to: index + 1, value });
  });
  return found.filter((one) => one.value);
}

function fileTable(coverage) {
  const several = new Set(coverage.files.map((file) => file.context)).size > 1;
  const filter = el("input", { type: "search", class: "small", placeholder: "Filter files", "aria-label": "Filter files" });
  const rows = coverage.files.map((file) => {
    const name = several ? `${file.context}/${file.path}` : file.path;
    const row = el("tr", {}, el("td", { class: "path" }, name), el("td", { class: "right" }, num(file.chars)), el("td", { class: "right" }, percent(file.code, file.chars)), el("td", { class: "right" }, percent(file.model, file.chars)));
    return { row, text: name.toLowerCase() };
  });
  filter.addEventListener("input", () => {
    const word = filter.value.toLowerCase();
    for (const { row, text } of rows) row.hidden = !text.includes(word);
  });
  const missing = coverage.files_in_all - coverage.files.length;
  return el("details", { class: "files", open: coverage.files_in_all <= 12 },
    el("summary", {}, `${count(coverage.files_in_all, "file")}, ${num(coverage.files_read)} read at least in part`),
    coverage.files.length > 12 ? filter : null,
    el("div", { class: "table-frame" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "File"), el("th", { scope: "col", class: "right" }, "Characters"), el("th", { scope: "col", class: "right" }, "Code"), el("th", { scope: "col", class: "right" }, "Models"))), el("tbody", {}, rows.map(({ row }) => row)))),
    missing > 0 ? el("p", { class: "soft" }, `${num(missing)} files that were read less are not listed.`) : null);
}
