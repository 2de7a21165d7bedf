// The number of calls in flight as an area, as wide as its box.
function flightShape({ steps, most }, from, to) {
  const width = Math.max(to - from, 1e-9);
  let path = "M0 1";
  let height = 1;
  let lastX = -1;
  let peak = 0;
  for (const [at, number] of steps) {
    const x = Math.min(1, Math.max(0, (at - from) / width));
    const y = 1 - number / most;
    peak = Math.max(peak, number);
    if (x - lastX < 0.0008 && number < peak && number > 0) continue; // narrower than a pixel
    path += `L${x.toFixed(5)} ${height.toFixed(3)}L${x.toFixed(5)} ${y.toFixed(3)}`;
    height = y;
    lastX = x;
    peak = 0;
  }
  return svg("svg", { class: "flight", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("path", { d: `${path}L1 ${height.toFixed(3)}L1 1Z` }));
}
