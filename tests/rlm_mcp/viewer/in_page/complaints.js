// What a screen reader or a keyboard would stumble over.
() => {
  const complaints = [];
  const find = (selector) => [...document.querySelectorAll(selector)];
  const byIds = (ids) => ids.split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("");
  const nameOf = (node) =>
    node.getAttribute("aria-label") || byIds(node.getAttribute("aria-labelledby") ?? "") || node.textContent.trim();

  for (const node of find("button, a[href], dialog, nav, [role=img], [role=group], [role=treegrid], [role=row]")) {
    if (!nameOf(node)) complaints.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  for (const node of find("input")) if (!node.getAttribute("aria-label")) complaints.push(`no label: ${node.id}`);
  const ids = find("[id]").map((node) => node.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) complaints.push(`id twice: ${id}`);
  for (const node of find("a[href^='#']")) {
    const target = node.getAttribute("href").slice(1);
    if (!document.getElementById(target)) complaints.push(`a link to nowhere: ${target}`);
  }
  for (const name of ["aria-labelledby", "aria-activedescendant"]) {
    for (const node of find(`[${name}]`)) {
      if (!document.getElementById(node.getAttribute(name))) complaints.push(`${name} points nowhere`);
    }
  }
  for (const row of find(".grid-row")) {
    const told = ["aria-level", "aria-rowindex", "aria-label"].every((name) => row.getAttribute(name));
    if (!told || row.querySelectorAll("[role=gridcell]").length !== 4) complaints.push("a row without level or cells");
  }
  let last = 0;
  for (const node of find("main h1, main h2, main h3, main h4")) {
    const level = Number(node.localName[1]);
    if (level > last + 1) complaints.push(`heading ${level} after ${last}`);
    last = level;
  }
  for (const cell of find("th")) if (!cell.hasAttribute("scope")) complaints.push("a table header without scope");
  for (const node of find("[tabindex]")) if (node.tabIndex > 0) complaints.push("the order of tab is changed");
  if (document.documentElement.lang !== "en") complaints.push("no language");
  if (find("main").length !== 1) complaints.push("not one main part");
  return complaints;
}
