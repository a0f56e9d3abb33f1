// The list of questions, and the current question.

import { LABELS } from "./answers.js";
import { get } from "./api.js";

const PAGE = 50;
const KINDS = { same_person: "Same person?", two_people: "Two people?" };

export const hashOf = (question) => `#${[question.kind, question.identity, question.other].filter(Boolean).map(encodeURIComponent).join("/")}`;

export function fromHash(hash) {
  const [kind, identity, other] = hash.replace(/^#/, "").split("/").map(decodeURIComponent);
  if (kind === "two_people" && identity) return { kind, identity, other: null };
  if (kind === "same_person" && identity && other) return { kind, identity, other };
  return null;
}

const isSame = (a, b) => a && b && a.identity === b.identity && (a.other || null) === (b.other || null);

export class Queue {
  constructor(open) {
    this.open = open;
    this.questions = [];
    this.version = 0;
    this.list = document.getElementById("questions");
    this.count = document.getElementById("queue-count");
    this.more = document.getElementById("more-questions");
    this.more.addEventListener("click", () => this.load(this.questions.length));
  }

  // Loads the list from its start, or the page at an offset.
  async load(offset = 0) {
    const loaded = offset ? this.questions : [];
    const limit = offset ? PAGE : Math.min(200, Math.max(PAGE, this.questions.length));
    const page = await get("/api/queue", { offset, limit });
    this.version = page.gallery_version;
    this.questions = [...loaded, ...page.questions];
    this.more.hidden = this.questions.length >= page.total;
    this.count.textContent = `${page.open} open of ${page.total}, the most valuable first`;
    this.draw();
    return page;
  }

  draw(current = this.current) {
    this.current = current;
    this.list.replaceChildren(...this.questions.map((question) => this.item(question)));
  }

  item(question) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const title = document.createElement("b");
    title.textContent = KINDS[question.kind] || question.kind;
    const about = document.createElement("span");
    about.className = "dim";
    about.textContent = `${question.faces} faces, doubt ${Math.round(question.doubt * 100)} %`;
    button.append(title, about);
    if (question.settled_by !== null || question.skipped) {
      const done = document.createElement("span");
      done.className = question.settled_by !== null ? "done dim" : "dim";
      done.textContent = question.settled_by !== null ? ` ✓ ${LABELS[question.settled_how]}, ${question.settled_who}` : " skipped";
      button.append(done);
    }
    if (isSame(question, this.current)) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.open(question));
    item.append(button);
    return item;
  }

  find(question) {
    return this.questions.find((other) => isSame(question, other));
  }

  // Returns the next (or previous) unanswered question; if all are answered, the next one.
  step(by) {
    const at = this.questions.findIndex((question) => isSame(question, this.current));
    const total = this.questions.length;
    const order = Array.from({ length: total }, (_, i) => (at < 0 && by < 0 ? total : at) + by * (i + 1));
    const inList = order.filter((index) => index >= 0 && index < total).map((index) => this.questions[index]);
    return inList.find((question) => question.settled_by === null) || inList[0] || null;
  }

  first() {
    return this.questions.find((question) => question.settled_by === null && !question.skipped) || this.questions[0] || null;
  }
}
