import { get, post, showFace } from "./api.js";
// The list of identities with its search, and the view of one identity: its faces over time and why they are together.

const PAGE = 24;
const FACES = 60;
const SEARCHES = { identity: "Identity id, or its beginning", subject: "Subject reference", photo: "Photo id" };
const HOW = { grouped: "by a full clustering", joined: "by an incremental clustering", corrected: "by a reviewer" };

const $ = (id) => document.getElementById(id);
const format = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

export const hashOfIdentity = (identity) => `#identity/${encodeURIComponent(identity)}`;

export function identityOf(hash) {
  const match = hash.match(/^#identity\/([^/]+)$/);
  try {
    return match ? decodeURIComponent(match[1]) : null;
  } catch {
    return null; // an address that was typed
  }
}

function element(name, text, className) {
  const item = document.createElement(name);
  if (text !== undefined) item.textContent = text;
  if (className) item.className = className;
  return item;
}

function picture(face, image) {
  const item = element("img");
  item.alt = `face of ${image}`;
  item.draggable = false;
  showFace(item, face);
  return item;
}

export class Browser {
  // run: performs a task, and shows that it runs and its errors.
  constructor(run) {
    this.run = run;
    this.next = null;
    this.sought = null;
    this.current = null;
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.load();
    });
    $("listing").addEventListener("change", () => {
      this.drawSearch();
      if (!this.isSearch) this.load();
    });
    $("more-identities").addEventListener("click", () => this.load(this.next));
    $("more-dated").addEventListener("click", () => this.moreFaces());
    this.drawSearch();
  }

  get isSearch() {
    return $("listing").value in SEARCHES;
  }

  get isOpen() {
    return !$("identity-list").hidden;
  }

  // Shows the list of identities in place of the questions, or the reverse.
  open(on) {
    $("identity-list").hidden = !on;
    $("question-list").hidden = on;
    for (const button of document.querySelectorAll("[data-list]")) {
      button.setAttribute("aria-pressed", String((button.dataset.list === "identities") === on));
    }
    if (on && this.sought === null) this.load();
  }

  drawSearch() {
    $("sought-row").hidden = !this.isSearch;
    $("sought-name").textContent = SEARCHES[$("listing").value] || "";
  }

  // ---- list

  async load(after = 0) {
    const asked = after ? this.sought : { listing: $("listing").value, text: this.isSearch ? $("sought").value : "" };
    this.sought = asked;
    await this.run(async () => {
      const page = await post("/api/identities", { ...asked, after, limit: PAGE });
      if (this.sought !== asked) return;
      if (!after) $("identities").replaceChildren();
      $("identities").append(...page.identities.map((row) => this.row(row)));
      this.next = page.next;
      $("more-identities").hidden = page.next === null;
      const count = $("identities").children.length;
      const nothing = "No identity that may be shown.";
      $("identity-count").textContent = count ? `${plural(count, "identity").replace("identitys", "identities")} listed` : nothing;
    });
  }

  row(row) {
    const item = element("li");
    const button = element("button");
    button.type = "button";
    button.dataset.identity = row.identity;
    const text = element("span");
    text.append(element("b", row.identity));
    const matches = row.matches === null ? "" : `, ${row.matches} found`;
    const change = row.change ? `, ${row.change}` : "";
    text.append(element("span", `${plural(row.size, "face")}${matches}, since gallery ${row.first_version}${change}`, "dim"));
    button.append(picture(row.face, row.image), text);
    if (row.identity === this.current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => { location.hash = hashOfIdentity(row.identity); });
    item.append(button);
    return item;
  }

  // ---- one identity

  async show(identity) {
    this.current = identity;
    for (const button of document.querySelectorAll("#identities button")) {
      if (button.dataset.identity === identity) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    const view = await get("/api/person", { a: identity, limit: FACES });
    if (this.current !== identity) return null;
    this.shown = 0;
    $("person-title").textContent = identity;
    $("person-note").textContent = this.note(view);
    $("person-how").textContent = this.reasons(view);
    $("person-review").onclick = () => { location.hash = `#two_people/${encodeURIComponent(identity)}`; };
    $("person-why").hidden = true;
    $("dated").replaceChildren();
    this.append(view);
    return view;
  }

  note(view) {
    const hidden = view.hidden ? `; ${view.hidden} more may not be shown` : "";
    const sampled = view.compared < view.size ? `; a sample of ${view.compared} of ${view.size} faces` : "";
    return `${plural(view.total, "face")}${hidden}${sampled}, since gallery ${view.first_version}`;
  }

  reasons(view) {
    const parts = Object.entries(view.how).map(([how, count]) => `${count} ${HOW[how] || how}`);
    const inside = view.inside === null ? "" : ` Mean similarity ${format(view.inside)}.`;
    const named = view.corrections.length ? ` Named by corrections ${view.corrections.join(", ")}.` : "";
    return `Assigned: ${parts.join(", ")}.${inside}${named} Choose a face to see why it is here.`;
  }

  append(view) {
    for (const face of view.faces) {
      const day = face.captured_at ? face.captured_at.slice(0, 10) : "no date";
      let section = $("dated").lastElementChild;
      if (!section || section.dataset.day !== day) {
        section = element("section");
        section.dataset.day = day;
        section.append(element("h3", day === "no date" ? "Photos without a date" : day), element("ul", undefined, "faces"));
        $("dated").append(section);
      }
      section.lastElementChild.append(this.tile(view.identity, face));
      this.shown += 1;
    }
    $("more-dated").hidden = this.shown >= view.total;
  }

  tile(identity, face) {
    const item = element("li");
    const button = element("button");
    button.type = "button";
    button.dataset.face = face.face_id;
    button.title = `${face.image_id}, quality ${format(face.quality)}, nearest other face ${format(face.nearest)}`;
    button.append(picture(face.face_id, face.image_id), element("span", format(face.similarity), "similarity"));
    if (face.shared) button.append(element("span", "same photo", "shared"));
    button.addEventListener("click", () => this.explain(identity, face));
    item.append(button);
    return item;
  }

  async moreFaces() {
    const identity = this.current;
    await this.run(async () => {
      const view = await get("/api/person", { a: identity, at: this.shown, limit: FACES });
      if (this.current === identity) this.append(view);
    });
  }

  async explain(identity, face) {
    await this.run(async () => {
      const why = await get("/api/why", { a: identity, face: face.face_id });
      if (this.current !== identity) return;
      const from = HOW[face.how] ? `Assigned ${HOW[face.how]}. ` : "";
      const photo = `${face.image_id}: ${from}Similarity to the template ${format(face.similarity)}, to the nearest other face ${format(face.nearest)}.`;
      $("person-why-face").textContent = photo;
      $("person-why-texts").replaceChildren(...why.sentences.map((text) => element("li", text)));
      $("person-why-path").replaceChildren(...why.path.map((step) => {
        const item = element("li");
        item.append(picture(step.face_id, step.image_id));
        return item;
      }));
      $("person-why").hidden = false;
      $("person-why").focus();
      $("person-why").scrollIntoView({ block: "nearest" });
    });
  }
}
