"use strict";
/* Tooltips, histogram toggles and sortable tables. The page is complete without this script. */
(() => {
  const tip = document.getElementById("tip");
  const place = (event) => {
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = Math.max(4, Math.min(event.clientY + 16, innerHeight - box.height - 8)) + "px";
  };
  document.addEventListener("pointermove", (event) => {
    const tipText = event.target instanceof Element ? event.target.getAttribute("data-tip") : null;
    tip.hidden = !tipText;
    if (tipText) {
      tip.textContent = tipText;
      place(event);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
  });

  for (const item of document.querySelectorAll("[data-toggle]")) {
    const layer = document.querySelector(`[data-layer="${item.dataset.toggle}"]`);
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const hidden = layer.classList.toggle("off");
      button.setAttribute("aria-pressed", String(!hidden));
    });
  }

  const number = (text) => {
    const digits = text.replace(/[,\s]/g, "").match(/-?\d+(\.\d+)?/);
    return digits ? parseFloat(digits[0]) : -Infinity;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const body = table.tBodies[0];
        const value = (row) => row.cells[column].textContent;
        const compare = head.classList.contains("n")
          ? (a, b) => number(value(a)) - number(value(b))
          : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
        const rows = [...body.rows].sort(compare);
        body.append(...(falling ? rows.reverse() : rows));
      });
    });
  }
})();
