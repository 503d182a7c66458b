"use strict";
// Everything is readable without this: it filters, opens and moves.
(() => {
  const input = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const rows = [...document.querySelectorAll(".row")];
  const levels = [...document.querySelectorAll("[data-level][aria-pressed]")];
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  function apply() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = levels.filter(pressed).map((button) => button.dataset.level);
    let left = 0;
    for (const row of rows) {
      const text = (row.dataset.f || "").toLowerCase();
      const level = row.dataset.level;
      const fits = words.every((word) => text.includes(word));
      row.hidden = !fits || (wanted.length > 0 && level !== undefined && !wanted.includes(level));
      if (!row.hidden) left += 1;
    }
    const filtered = words.length > 0 || wanted.length > 0;
    shown.textContent = filtered ? `${left} of ${rows.length} shown` : "";
    document.body.classList.toggle("filtered", filtered);
  }

  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 80);
  });
  for (const button of levels) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!pressed(button)));
      apply();
    });
  }

  const fold = document.getElementById("fold");
  function openAll(open) {
    for (const details of document.querySelectorAll("details")) details.open = open;
    fold.setAttribute("aria-pressed", String(open));
    fold.textContent = open ? "close all" : "open all";
  }
  fold.addEventListener("click", () => openAll(!pressed(fold)));

  const sections = [...document.querySelectorAll("main section.panel")];
  function move(step) {
    const at = sections.findIndex((section) => section.getBoundingClientRect().bottom > 90);
    const next = sections[Math.min(Math.max(at + step, 0), sections.length - 1)];
    const heading = next.querySelector("h2");
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && document.activeElement === input) {
      input.value = "";
      apply();
      input.blur();
      return;
    }
    if (event.target instanceof HTMLInputElement) return;
    const act = {
      "/": () => input.focus(),
      o: () => openAll(!pressed(fold)),
      n: () => move(1),
      p: () => move(-1),
    }[event.key];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  // Where a link leads must be seen, whatever the filter hides.
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.hidden) target.hidden = false;
  });
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });
})();
