// Lasso: a line drawn around faces selects those whose centre is inside. Not by touch, where dragging scrolls.

const DRAG_PX = 8; // a press becomes a drag after this distance
const SVG = "http://www.w3.org/2000/svg";

export function inside(point, corners) {
  let odd = false;
  for (let i = 0, j = corners.length - 1; i < corners.length; j = i, i += 1) {
    const [a, b] = [corners[i], corners[j]];
    if (a.y > point.y !== b.y > point.y && point.x < ((b.x - a.x) * (point.y - a.y)) / (b.y - a.y) + a.x) odd = !odd;
  }
  return odd;
}

export function lasso(area, columns) {
  let corners = null;
  let drawing = null;

  const end = () => {
    drawing?.remove();
    corners = null;
    drawing = null;
  };

  area.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button !== 0 || event.target.closest("button, summary")) return;
    corners = [{ x: event.clientX, y: event.clientY }];
  });

  window.addEventListener("pointermove", (event) => {
    if (!corners) return;
    const first = corners[0];
    if (!drawing && Math.hypot(event.clientX - first.x, event.clientY - first.y) < DRAG_PX) return;
    if (!drawing) {
      drawing = document.createElementNS(SVG, "svg");
      drawing.classList.add("lasso");
      drawing.append(document.createElementNS(SVG, "polygon"));
      document.body.append(drawing);
    }
    corners.push({ x: event.clientX, y: event.clientY });
    drawing.firstChild.setAttribute("points", corners.map((at) => `${at.x},${at.y}`).join(" "));
  });

  window.addEventListener("pointerup", () => {
    if (!drawing) {
      end();
      return;
    }
    for (const column of columns) {
      [...column.list.children].forEach((item, index) => {
        const box = item.getBoundingClientRect();
        if (inside({ x: box.x + box.width / 2, y: box.y + box.height / 2 }, corners)) column.select(index, true);
      });
      column.onChange();
    }
    // ignore the click event that follows a drag
    const ignore = (event) => { event.stopPropagation(); event.preventDefault(); };
    window.addEventListener("click", ignore, { capture: true, once: true });
    setTimeout(() => window.removeEventListener("click", ignore, { capture: true }), 0);
    end();
  });

  window.addEventListener("pointercancel", end);
}
