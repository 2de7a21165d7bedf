// A served page asks its server for what is new until the run has ended.

const POLL_MILLISECONDS = 1000;

async function follow() {
  try {
    const answer = await fetch(`data?seen=${data.rows.length}`, { cache: "no-store" });
    if (answer.status === 200) {
      take(await answer.json());
      show();
    }
    if (!data.head.is_live) return;
  } catch {
    data.follow = false;
    top_.append(el("p", { class: "note-line" }, "The server of this page has stopped, so the page no longer follows the run."));
    return;
  }
  setTimeout(follow, POLL_MILLISECONDS);
}

if (data.follow) follow();
