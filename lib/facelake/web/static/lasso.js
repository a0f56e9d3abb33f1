// A line drawn around faces selects those whose middle lies inside. Not by touch: there a drag scrolls.

const FAR = 8; // pixels from which a press is a drag
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
    if (!drawing && Math.hypot(event.clientX - first.x, event.clientY - first.y) < FAR) return;
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
        if (inside({ x: box.x + box.width / 2, y: box.y + box.height / 2 }, corners)) column.set(index, true);
      });
      column.changed();
    }
    // the click that follows a drag is no click
    const swallow = (event) => { event.stopPropagation(); event.preventDefault(); };
    window.addEventListener("click", swallow, { capture: true, once: true });
    setTimeout(() => window.removeEventListener("click", swallow, { capture: true }), 0);
    end();
  });

  window.addEventListener("pointercancel", end);
}
