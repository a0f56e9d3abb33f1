// One column of faces: a list box with a selection, used by mouse, touch and keyboard.

const figure = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

export class Column {
  constructor(number, changed) {
    this.list = document.getElementById(`faces-${number}`);
    this.title = document.getElementById(`title-${number}`);
    this.note = document.getElementById(`note-${number}`);
    this.more = document.getElementById(`more-${number}`);
    this.number = number;
    this.changed = changed;
    this.clear();
    this.list.addEventListener("click", (event) => this.clicked(event));
    this.list.addEventListener("keydown", (event) => this.pressed(event));
    this.list.addEventListener("focus", () => this.mark(this.here));
    this.list.addEventListener("blur", () => this.list.removeAttribute("aria-activedescendant"));
  }

  clear() {
    this.faces = [];
    this.chosen = new Set();
    this.here = 0;
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
    const hidden = side.hidden ? `; ${side.hidden} may not be shown` : "";
    const sampled = side.compared < side.size ? `; only ${side.compared} of ${side.size} faces were read` : "";
    const inside = side.inside === null ? "" : `, ${figure(side.inside)} alike among themselves`;
    this.note.textContent = `${side.total} faces${inside}${hidden}${sampled}`;
    this.more.hidden = this.faces.length >= side.total;
    this.mark(this.here);
  }

  tile(face, index) {
    const item = document.createElement("li");
    item.id = `face-${this.number}-${index}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    item.dataset.index = index;
    const like = `${figure(face.similarity)} → ${figure(face.other)}`;
    item.title = `${face.image_id}, quality ${figure(face.quality)}`;
    const image = document.createElement("img");
    image.src = `/api/face/${encodeURIComponent(face.face_id)}`;
    image.alt = `face of ${face.image_id}`;
    image.loading = "lazy";
    image.draggable = false;
    image.addEventListener("error", () => { image.alt = "no picture"; });
    const said = document.createElement("span");
    said.className = "like";
    said.textContent = like;
    item.append(image, said);
    if (face.shared) {
      const mark = document.createElement("span");
      mark.className = "shared";
      mark.textContent = "same photo";
      item.append(mark);
    }
    return item;
  }

  // ---- selection

  get selected() {
    return this.faces.filter((_, index) => this.chosen.has(index)).map((face) => face.face_id);
  }

  set(index, on) {
    if (index < 0 || index >= this.faces.length) return;
    if (on) this.chosen.add(index);
    else this.chosen.delete(index);
    this.list.children[index].setAttribute("aria-selected", String(on));
  }

  toggle(index) {
    this.set(index, !this.chosen.has(index));
    this.anchor = index;
    this.changed();
  }

  range(to) {
    const [low, high] = [Math.min(this.anchor, to), Math.max(this.anchor, to)];
    for (let index = low; index <= high; index += 1) this.set(index, true);
    this.changed();
  }

  all(on) {
    this.faces.forEach((_, index) => this.set(index, on));
    this.changed();
  }

  mark(index) {
    this.list.querySelector(".here")?.classList.remove("here");
    const item = this.list.children[index];
    if (!item) {
      this.list.removeAttribute("aria-activedescendant");
      return;
    }
    this.here = index;
    item.classList.add("here");
    if (document.activeElement === this.list) document.getElementById("about").textContent = item.title;
    if (document.activeElement === this.list) {
      this.list.setAttribute("aria-activedescendant", item.id);
      item.scrollIntoView({ block: "nearest" });
    }
  }

  clicked(event) {
    const item = event.target.closest("li");
    if (!item) return;
    const index = Number(item.dataset.index);
    this.mark(index);
    if (event.shiftKey) this.range(index);
    else this.toggle(index);
  }

  pressed(event) {
    const across = Math.max(1, getComputedStyle(this.list).gridTemplateColumns.split(" ").length);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    if (event.key in steps) {
      const to = Math.min(Math.max(this.here + steps[event.key], 0), this.faces.length - 1);
      if (event.shiftKey) {
        this.set(this.here, true);
        this.set(to, true);
        this.changed();
      }
      this.mark(to);
    } else if (event.key === "Home") this.mark(0);
    else if (event.key === "End") this.mark(this.faces.length - 1);
    else if (event.key === " " || event.key === "x" || event.key === "Enter") this.toggle(this.here);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
