// The whole run in one strip: replies, code, and the number of sub-calls in flight. Drag to zoom.

class Flight {
  constructor({ onZoom }) {
    this.onZoom = onZoom;
    this.chart = el("div", { class: "flight-chart" });
    this.brush = el("div", { class: "brush", hidden: true });
    this.most = el("span", { class: "most" });
    this.element = el("div", { class: "flight-box", role: "img" }, this.chart, this.brush, this.most);
    this.element.addEventListener("pointerdown", (event) => this.begin(event));
  }

  show(plan) {
    this.plan = plan;
    const calls = [];
    const replies = [];
    const cells = [];
    for (const node of plan.nodes.values()) {
      if (node.kind === "call") calls.push(node);
      else if (node.kind === "reply") (node.path ? calls : replies).push(node);
      else if (node.kind === "cell" && !node.path) cells.push(node);
    }
    const inFlight = flight(calls);
    const track = (nodes, name) =>
      svg("svg", { class: `track track-${name}`, viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" },
        nodes.map(({ start, end }) => svg("rect", { x: (1000 * start) / plan.end, y: 0, width: Math.max(1.5, (1000 * (end - start)) / plan.end), height: 10 })));
    this.chart.replaceChildren(track(replies, "model"), track(cells, "code"));
    if (calls.length) this.chart.append(flightShape(inFlight, 0, plan.end));
    this.element.classList.toggle("short", !calls.length);
    this.most.textContent = calls.length ? `at most ${num(inFlight.most)} model calls at once` : "";
    this.element.setAttribute("aria-label", `The whole run in ${span(plan.end)}: ${count(replies.length, "reply", "replies")} of the root model, ${count(cells.length, "block")} of code, at most ${num(inFlight.most)} other model calls at once`);
  }

  zoom(range) {
    this.brush.hidden = range === null;
    if (range === null) return;
    this.brush.style.left = `${(100 * range[0]) / this.plan.end}%`;
    this.brush.style.width = `${(100 * (range[1] - range[0])) / this.plan.end}%`;
  }

  begin(event) {
    if (event.button !== 0) return;
    const box = this.element.getBoundingClientRect();
    const moment = (x) => (this.plan.end * Math.min(1, Math.max(0, (x - box.left) / box.width)));
    const from = moment(event.clientX);
    const move = (next) => {
      const to = moment(next.clientX);
      this.zoom([Math.min(from, to), Math.max(from, to)]);
    };
    const end = (last) => {
      this.element.removeEventListener("pointermove", move);
      const to = moment(last.clientX);
      const isDrag = Math.abs(last.clientX - event.clientX) > 4;
      this.onZoom(isDrag ? [Math.min(from, to), Math.max(from, to)] : null);
    };
    this.element.setPointerCapture(event.pointerId);
    this.element.addEventListener("pointermove", move);
    this.element.addEventListener("pointerup", end, { once: true });
    this.element.addEventListener("pointercancel", end, { once: true });
  }
}
