// The list of questions, and which of them is on the desk.

import { WORDS } from "./answers.js";
import { get } from "./api.js";

const PAGE = 50;
const KINDS = { same_person: "One person or two?", two_people: "Two people in one?" };

export const hashOf = (one) => `#${[one.kind, one.identity, one.other].filter(Boolean).map(encodeURIComponent).join("/")}`;

export function fromHash(hash) {
  const [kind, identity, other] = hash.replace(/^#/, "").split("/").map(decodeURIComponent);
  if (kind === "two_people" && identity) return { kind, identity, other: null };
  if (kind === "same_person" && identity && other) return { kind, identity, other };
  return null;
}

const same = (a, b) => a && b && a.identity === b.identity && (a.other || null) === (b.other || null);

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

  // From the start, or the next page.
  async load(offset = 0) {
    const known = offset ? this.questions : [];
    const wanted = offset ? PAGE : Math.min(200, Math.max(PAGE, this.questions.length));
    const page = await get("/api/queue", { offset, limit: wanted });
    this.version = page.gallery_version;
    this.questions = [...known, ...page.questions];
    this.more.hidden = this.questions.length >= page.total;
    this.count.textContent = `${page.open} open of ${page.total}, the most valuable first`;
    this.draw();
    return page;
  }

  draw(current = this.current) {
    this.current = current;
    this.list.replaceChildren(...this.questions.map((one) => this.item(one)));
  }

  item(one) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const title = document.createElement("b");
    title.textContent = KINDS[one.kind] || one.kind;
    const about = document.createElement("span");
    about.className = "dim";
    about.textContent = `${one.faces} faces, doubt ${Math.round(one.doubt * 100)} %`;
    button.append(title, about);
    if (one.settled_by !== null || one.skipped) {
      const done = document.createElement("span");
      done.className = one.settled_by !== null ? "done dim" : "dim";
      done.textContent = one.settled_by !== null ? ` ✓ ${WORDS[one.settled_how]}, ${one.settled_who}` : " skipped";
      button.append(done);
    }
    if (same(one, this.current)) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.open(one));
    item.append(button);
    return item;
  }

  find(one) {
    return this.questions.find((other) => same(one, other));
  }

  // The next (or previous) question that nobody has answered; any one, when all are.
  step(by) {
    const at = this.questions.findIndex((one) => same(one, this.current));
    const many = this.questions.length;
    const order = Array.from({ length: many }, (_, i) => (at < 0 && by < 0 ? many : at) + by * (i + 1));
    const inList = order.filter((index) => index >= 0 && index < many).map((index) => this.questions[index]);
    return inList.find((one) => one.settled_by === null) || inList[0] || null;
  }

  first() {
    return this.questions.find((one) => one.settled_by === null && !one.skipped) || this.questions[0] || null;
  }
}
