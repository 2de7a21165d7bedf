// Light, dark, or as the system is set. Stored for the next page if the browser gives files storage.

const THEMES = ["auto", "light", "dark"];

function keptTheme() {
  try {
    return localStorage.getItem("rlm-mcp-theme") ?? "auto";
  } catch {
    return "auto";
  }
}

function setTheme(theme, button) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("rlm-mcp-theme", theme);
  } catch {
    // a page opened from a file may have no storage
  }
}

function themeButton() {
  const button = el("button", { type: "button", class: "quiet", id: "theme", title: "Change the colours (t)" });
  let theme = THEMES.includes(keptTheme()) ? keptTheme() : "auto";
  setTheme(theme, button);
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    setTheme(theme, button);
  });
  return button;
}
