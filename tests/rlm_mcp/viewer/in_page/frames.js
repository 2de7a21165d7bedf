// Scrolls the timeline for sixty frames; the milliseconds of each, sorted.
() => new Promise((done) => {
  const grid = document.getElementById("timeline-grid");
  const times = [];
  let last = performance.now();
  const step = () => {
    const now = performance.now();
    times.push(now - last);
    last = now;
    grid.scrollTop += 1500;
    if (times.length < 60) requestAnimationFrame(step);
    else done(times.sort((one, other) => one - other));
  };
  requestAnimationFrame(step);
})
