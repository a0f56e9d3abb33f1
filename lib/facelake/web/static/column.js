import { showFace } from "./api.js";
// A column of faces: a list box with multiple selection by mouse, touch and keyboard.

const format = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

export class Column {
  constructor(number, onChange) {
    this.list = document.getElementById(`faces-${number}`);
    this.title = document.getElementById(`title-${number}`);
    this.note = document.getElementById(`note-${number}`);
    this.more = document.getElementById(`more-${number}`);
    this.number = number;
    this.onChange = onChange;
    this.clear();
    this.list.addEventListener("click", (event) => this.onClick(event));
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    this.list.addEventListener("focus", () => this.activate(this.active));
    this.list.addEventListener("blur", () => this.list.removeAttribute("aria-activedescendant"));
  }

  clear() {
    this.faces = [];
    this.selection = new Set();
    this.active = 0;
    this.anchor = 0;
    this.side = null;
    this.list.replaceChildren();
  }

  show(side, title) {
    this.clear();
    this.title.textContent = title;
    this.append(side);
  }

  append(side) {
    this.side = side;
    for (const face of side.faces) {
      this.list.append(this.tile(face, this.faces.length));
      this.faces.push(face);
    }
    const hidden = side.hidden ? `; ${side.hidden} more may not be shown` : "";
    const sampled = side.compared < side.size ? `; a sample of ${side.compared} of ${side.size} faces` : "";
    const inside = side.inside === null ? "" : `, mean similarity ${format(side.inside)}`;
    this.note.textContent = `${side.total} faces${inside}${hidden}${sampled}`;
    this.more.hidden = this.faces.length >= side.total;
    this.activate(this.active);
  }

  tile(face, index) {
    const item = document.createElement("li");
    item.id = `face-${this.number}-${index}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    item.dataset.index = index;
    const similarity = `${format(face.similarity)} → ${format(face.other)}`;
    item.title = `${face.image_id}, quality ${format(face.quality)}`;
    const image = document.createElement("img");
    image.alt = `face of ${face.image_id}`;
    showFace(image, face.face_id);
    image.draggable = false;
    const caption = document.createElement("span");
    caption.className = "similarity";
    caption.textContent = similarity;
    item.append(image, caption);
    if (face.shared) {
      const badge = document.createElement("span");
      badge.className = "shared";
      badge.textContent = "same photo";
      item.append(badge);
    }
    return item;
  }

  // ---- selection

  get selected() {
    return this.faces.filter((_, index) => this.selection.has(index)).map((face) => face.face_id);
  }

  select(index, on) {
    if (index < 0 || index >= this.faces.length) return;
    if (on) this.selection.add(index);
    else this.selection.delete(index);
    this.list.children[index].setAttribute("aria-selected", String(on));
  }

  toggle(index) {
    this.select(index, !this.selection.has(index));
    this.anchor = index;
    this.onChange();
  }

  selectRange(to) {
    const [low, high] = [Math.min(this.anchor, to), Math.max(this.anchor, to)];
    for (let index = low; index <= high; index += 1) this.select(index, true);
    this.onChange();
  }

  selectAll(on) {
    this.faces.forEach((_, index) => this.select(index, on));
    this.onChange();
  }

  activate(index) {
    this.list.querySelector(".active")?.classList.remove("active");
    const item = this.list.children[index];
    if (!item) {
      this.list.removeAttribute("aria-activedescendant");
      return;
    }
    this.active = index;
    item.classList.add("active");
    if (document.activeElement === this.list) {
      document.getElementById("about").textContent = item.title;
      this.list.setAttribute("aria-activedescendant", item.id);
      item.scrollIntoView({ block: "nearest" });
    }
  }

  onClick(event) {
    const item = event.target.closest("li");
    if (!item) return;
    const index = Number(item.dataset.index);
    this.activate(index);
    if (event.shiftKey) this.selectRange(index);
    else this.toggle(index);
  }

  onKey(event) {
    const perRow = Math.max(1, getComputedStyle(this.list).gridTemplateColumns.split(" ").length);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow };
    if (event.key in steps) {
      const to = Math.min(Math.max(this.active + steps[event.key], 0), this.faces.length - 1);
      if (event.shiftKey) {
        this.select(this.active, true);
        this.select(to, true);
        this.onChange();
      }
      this.activate(to);
    } else if (event.key === "Home") this.activate(0);
    else if (event.key === "End") this.activate(this.faces.length - 1);
    else if (event.key === " " || event.key === "Enter") this.toggle(this.active);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
