// Chosen colours before the first paint; a classic script, because a module would run too late for that.
"use strict";
{
  const KEY = "maskfer.theme";
  const root = document.documentElement;

  const show = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  };

  let chosen = "auto";
  try {
    chosen = localStorage.getItem(KEY) ?? "auto";
  } catch {
    // A browser that keeps nothing: the system's colours.
  }
  show(chosen);

  document.addEventListener("DOMContentLoaded", () => {
    for (const radio of document.querySelectorAll("#theme input")) {
      radio.checked = radio.value === (root.dataset.theme ?? "auto");
      radio.addEventListener("change", () => {
        show(radio.value);
        try {
          localStorage.setItem(KEY, radio.value);
        } catch {
          // Chosen for this visit only.
        }
      });
    }
  });
}
