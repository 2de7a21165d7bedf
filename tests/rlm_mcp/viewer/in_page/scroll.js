// Scrolls the timeline by sixty rows in each of sixty frames; how many frames that were.
() => new Promise((done) => {
  const grid = document.getElementById("timeline-grid");
  let frames = 0;
  const step = () => {
    grid.scrollTop += 1440;
    frames += 1;
    if (frames < 60) requestAnimationFrame(step);
    else done(frames);
  };
  requestAnimationFrame(step);
})
