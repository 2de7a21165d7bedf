// The timeline: a tree of rows, each with a bar. Only the visible rows are in the document.

const ROW_HEIGHT = 24;
const SPARE_ROWS = 6;
const PRINTED_ROWS = 400;

class Grid {
  constructor({ onSelect, onZoom }) {
    this.onSelect = onSelect;
    this.onZoom = onZoom;
    this.opened = new Set(["run "]);
    this.closed = new Set();
    this.view = "all";
    this.words = [];
    this.entries = [];
    this.selected = null;
    this.window = null; // [from, to], or null for the whole run
    this.live = new Map(); // index -> element
    this.ticks = el("div", { class: "ticks", "aria-hidden": "true" });
    const header = el("div", { class: "grid-head", role: "row", "aria-rowindex": "1" },
      el("span", { role: "columnheader" }, "Step"), el("span", { role: "columnheader", class: "right" }, "Tokens in / out"),
      el("span", { role: "columnheader", class: "right" }, "Time"),
      el("span", { role: "columnheader", class: "axis", "aria-label": "When" }, this.ticks));
    this.body = el("div", { class: "grid-body", role: "rowgroup" });
    this.box = el("div", { class: "grid", role: "treegrid", tabindex: "0", id: "timeline-grid", "aria-label": "Timeline of turns, replies, code and sub-calls" }, header, this.body);
    this.empty = el("p", { class: "nothing", hidden: true }, "Nothing fits this search.");
    this.element = el("div", { class: "grid-frame" }, this.box, this.empty);
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => this.click(event));
    this.body.addEventListener("dblclick", () => this.zoomToSelected());
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  show(plan) {
    this.plan = plan;
    if (!this.selected) this.selected = plan.root.id;
    this.list();
  }

  // Computes the rows anew and keeps the selection.
  list() {
    const { shown, found, isPlain } = visible(this.plan.root, this);
    this.entries = shown;
    this.found = found;
    this.isPlain = isPlain;
    this.index = new Map(shown.map((entry, index) => [entry.node.id, index]));
    this.box.setAttribute("aria-rowcount", shown.length + 1);
    this.body.style.height = `${shown.length * ROW_HEIGHT}px`;
    this.empty.hidden = shown.length > 0;
    this.clear();
    this.draw();
  }

  clear() {
    for (const row of this.live.values()) row.remove();
    this.live.clear();
  }

  get range() {
    return this.window ?? [0, this.plan.end];
  }

  draw(most = Infinity) {
    if (!this.plan) return;
    const top = this.box.scrollTop;
    const first = most < Infinity ? 0 : Math.max(0, Math.floor(top / ROW_HEIGHT) - SPARE_ROWS);
    const last = most < Infinity ? Math.min(most, this.entries.length)
      : Math.min(this.entries.length, Math.ceil((top + this.box.clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
    for (const [index, row] of this.live) {
      if (index < first || index >= last) {
        row.remove();
        this.live.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) {
      if (this.live.has(index)) continue;
      const row = this.row(index);
      this.live.set(index, row);
      this.body.append(row);
    }
    this.mark();
    this.drawTicks();
  }

  row(index) {
    const { node, level, isOpen, hasMore } = this.entries[index];
    const twisty = el("span", { class: hasMore ? (isOpen ? "twisty open" : "twisty") : "twisty none", "aria-hidden": "true" });
    const name = el("span", { class: "name", role: "gridcell" }, twisty,
      el("span", { class: `label k-${node.kind}` }, labelOf(node)), el("span", { class: "note" }, noteOf(node)));
    name.style.paddingInlineStart = `${(level - 1) * 14 + 4}px`;
    const bars = el("span", { class: "bars", role: "gridcell" });
    this.bar(bars, node, isOpen);
    const row = el("div", {
      class: `grid-row k-${node.kind}${node.failed ? " failed" : ""}`, role: "row", id: `grid-row-${index}`, "data-index": index,
      "aria-level": level, "aria-rowindex": index + 2, "aria-expanded": hasMore ? String(isOpen) : null,
      "aria-label": spoken(node),
    }, name, el("span", { class: "right", role: "gridcell" }, tokensOf(node)), el("span", { class: "right", role: "gridcell" }, span(node.end - node.start)), bars);
    row.style.top = `${index * ROW_HEIGHT}px`;
    return row;
  }

  bar(box, node, isOpen) {
    const [from, to] = this.range;
    const share = (moment) => (100 * (moment - from)) / (to - from);
    if (node.end < from || node.start > to) return;
    const left = Math.max(0, share(node.start));
    const width = Math.min(100, share(node.end)) - left;
    const bar = el("span", { class: "bar" });
    bar.style.left = `${left}%`;
    bar.style.width = `${width}%`;
    box.append(bar);
    if (node.kind === "call" && node.asked - node.start > 0.02 * (node.end - node.start)) {
      bar.classList.add("waited");
      const asked = el("span", { class: "asked" });
      asked.style.width = `${(100 * (node.end - node.asked)) / (node.end - node.start)}%`;
      bar.append(asked);
    }
    if (node.kind === "cell" && node.children.length && !isOpen) bar.append(flightShape(node.flight, node.start, node.end));
  }

  drawTicks() {
    const [from, to] = this.range;
    const key = `${from} ${to} ${this.ticks.clientWidth > 600}`;
    if (this.ticksKey === key) return;
    this.ticksKey = key;
    this.ticks.replaceChildren();
    const step = niceStep((to - from) / (this.ticks.clientWidth > 600 ? 8 : 4));
    for (let moment = Math.ceil(from / step) * step; moment < to - step * 0.3; moment += step) {
      const tick = el("span", { class: "tick" }, clock(moment, step));
      tick.style.left = `${(100 * (moment - from)) / (to - from)}%`;
      this.ticks.append(tick);
    }
  }

  mark() {
    const at = this.index.get(this.selected);
    for (const [index, row] of this.live) {
      if (index === at) row.setAttribute("aria-selected", "true");
      else row.removeAttribute("aria-selected");
    }
    if (this.live.has(at)) this.box.setAttribute("aria-activedescendant", `grid-row-${at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  // --- input

  select(id, { reveal = true } = {}) {
    this.selected = id;
    if (reveal) this.reveal();
    this.mark();
    this.onSelect(this.plan.nodes.get(id));
  }

  reveal() {
    if (!this.index.has(this.selected)) {
      for (let node = this.plan.nodes.get(this.selected)?.parent; node; node = node.parent) {
        this.opened.add(node.id);
        this.closed.delete(node.id);
      }
      this.list();
    }
    const at = this.index.get(this.selected);
    if (at === undefined) return;
    const head = this.box.firstElementChild.offsetHeight;
    const top = at * ROW_HEIGHT;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW_HEIGHT + head > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = top + ROW_HEIGHT + head - this.box.clientHeight;
    this.draw();
  }

  toggle(index, open = !this.entries[index].isOpen) {
    const { node, hasMore } = this.entries[index];
    if (!hasMore) return;
    if (this.isPlain) open ? this.opened.add(node.id) : this.opened.delete(node.id);
    else open ? this.closed.delete(node.id) : this.closed.add(node.id);
    this.list();
  }

  click(event) {
    const row = event.target.closest(".grid-row");
    if (!row) return;
    const index = Number(row.dataset.index);
    this.select(this.entries[index].node.id, { reveal: false });
    if (event.target.classList.contains("twisty")) this.toggle(index);
  }

  move(index) {
    const at = Math.max(0, Math.min(this.entries.length - 1, index));
    if (this.entries.length) this.select(this.entries[at].node.id);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.index.get(this.selected) ?? -1;
    const entry = this.entries[at];
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW_HEIGHT) - 2);
    switch (event.key) {
      case "ArrowDown":
      case "j":
        this.move(at + 1);
        break;
      case "ArrowUp":
      case "k":
        this.move(at - 1);
        break;
      case "PageDown":
        this.move(at + page);
        break;
      case "PageUp":
        this.move(at - page);
        break;
      case "Home":
        this.move(0);
        break;
      case "End":
        this.move(this.entries.length - 1);
        break;
      case "ArrowRight":
        if (entry?.hasMore && !entry.isOpen) this.toggle(at, true);
        else if (entry?.hasMore) this.move(at + 1);
        break;
      case "ArrowLeft":
        if (entry?.hasMore && entry.isOpen) this.toggle(at, false);
        else if (entry) this.toParent(at);
        break;
      case "Enter":
      case " ":
        if (entry?.hasMore) this.toggle(at);
        break;
      case "z":
        this.zoomToSelected();
        break;
      default:
        return;
    }
    event.preventDefault();
  }

  toParent(at) {
    const { level } = this.entries[at];
    for (let index = at - 1; index >= 0; index -= 1) {
      if (this.entries[index].level < level) return this.move(index);
    }
    return undefined;
  }

  zoomToSelected() {
    const node = this.plan.nodes.get(this.selected);
    if (!node || node === this.plan.root) return this.onZoom(null);
    const margin = Math.max((node.end - node.start) * 0.04, this.plan.end / 100_000);
    return this.onZoom([Math.max(0, node.start - margin), Math.min(this.plan.end, node.end + margin)]);
  }

  zoom(range) {
    this.window = range;
    this.clear();
    this.draw();
  }

  // Paper does not scroll: the first rows are all laid out.
  print() {
    this.clear(); // so that the rows come in order
    this.draw(PRINTED_ROWS);
    return Math.max(0, this.entries.length - PRINTED_ROWS);
  }

  unprint() {
    this.list();
  }
}

function tokensOf(node) {
  const usage = node.kind === "cell" && !node.children.length ? null : node.usage;
  return usage ? `${num(usage.prompt_tokens)} / ${num(usage.completion_tokens)}` : "";
}

function spoken(node) {
  const failed = node.failed ? ", failed" : "";
  return line(`${labelOf(node)}${failed}, ${span(node.end - node.start)}, begins at ${span(node.start)}. ${noteOf(node)}`, 300);
}

function niceStep(rough) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  if (rough >= 1) return steps.find((step) => step >= rough) ?? Math.ceil(rough / 86400) * 86400;
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1e-6)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
}

function clock(moment, step) {
  if (step < 1) return `${moment.toFixed(Math.max(0, Math.ceil(-Math.log10(step))))} s`;
  if (moment < 60) return `${Math.round(moment)} s`;
  const [hours, minutes, seconds] = [Math.floor(moment / 3600), Math.floor(moment / 60) % 60, Math.round(moment % 60)];
  const rest = `${String(minutes).padStart(hours ? 2 : 1, "0")}:${String(seconds).padStart(2, "0")}`;
  return hours ? `${hours}:${rest}` : rest;
}
