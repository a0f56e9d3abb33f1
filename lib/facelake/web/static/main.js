// The page: signs in, shows a question, takes answers. Its state is in the address: #kind/identity[/other].

import { get, post } from "./api.js";
import { record, requestFor, sentence, told } from "./answers.js";
import { Column } from "./column.js";
import { lasso } from "./lasso.js";
import { Queue, fromHash, hashOf } from "./queue.js";

const PAGE = 60;
const LOOK_AGAIN_MS = 30000;
const KEYS = [
  ["n, p", "next and previous question without an answer"],
  ["1, 2", "go to the left, to the right column"],
  ["arrows", "move among the faces; with shift, select on the way"],
  ["space, x", "select the face, or not"],
  ["a", "select all faces of the right column"],
  ["escape", "select nothing"],
  ["s", "split: the selected faces are another person, one and the same"],
  ["r", "reject: each selected face is not this person"],
  ["m", "same person: of two identities, merge them; of one, all faces shown are one person"],
  ["d", "different people: the two identities stay apart"],
  ["c", "confirm: the selected faces are this identity's"],
  ["u", "undo the last answer"],
  ["k", "skip: leave the question for later"],
  ["/", "write a reason"],
  ["?", "this help"],
];

const $ = (id) => document.getElementById(id);
const figure = (value) => (value === null ? "–" : value.toFixed(2));
const state = { view: null, question: null, version: 0, mine: [], loading: 0 };
const columns = [0, 1].map((number) => new Column(number, selectionChanged));
const queue = new Queue((one) => go(one));

// ---- what is said

function say(text) {
  $("alert").textContent = "";
  $("said").textContent = text;
}

function complain(error) {
  $("said").textContent = "";
  $("alert").textContent = error.text || String(error.message || error);
}

function selectionChanged() {
  const count = columns.reduce((sum, column) => sum + column.chosen.size, 0);
  say(count ? `${count} selected` : "");
  buttons();
}

function buttons() {
  const busy = state.loading > 0 || !state.view;
  const chosen = columns.some((column) => column.chosen.size > 0);
  const needs = { split: chosen, reject: chosen, confirm: chosen, different: state.view?.kind === "pair" };
  for (const button of document.querySelectorAll("[data-do]")) {
    const name = button.dataset.do;
    button.disabled = (busy && !["undo", "next", "previous"].includes(name)) || needs[name] === false;
  }
}

async function working(task) {
  state.loading += 1;
  buttons();
  try {
    return await task();
  } catch (error) {
    complain(error);
    if (error.status === 409 && error.kind === "ConfigError") await lookAgain();
    return null;
  } finally {
    state.loading -= 1;
    buttons();
  }
}

// ---- what is shown

function go(one) {
  $("queue").classList.remove("open");
  $("open-queue").setAttribute("aria-expanded", "false");
  if (location.hash === hashOf(one)) show();
  else location.hash = hashOf(one);
}

function nothing(text) {
  state.view = null;
  $("work").hidden = true;
  $("empty").hidden = false;
  $("empty").firstElementChild.textContent = text;
}

const ask = (one, at = [0, 0]) => {
  const where = { at_a: at[0], at_b: at[1], limit: PAGE };
  return one.other
    ? get("/api/pair", { a: one.identity, b: one.other, ...where })
    : get("/api/identity", { a: one.identity, ...where });
};

async function show() {
  const one = fromHash(location.hash) || queue.first();
  if (!one) {
    nothing("There is nothing to review: no identity of this gallery is in doubt.");
    return;
  }
  state.question = queue.find(one) || one;
  history.replaceState(null, "", hashOf(one));
  queue.draw(state.question);
  await working(async () => {
    nothing("Loading…");
    const view = await ask(one);
    if (hashOf(state.question) !== hashOf(one)) return;
    draw(view);
  });
  if (!state.view) $("empty").firstElementChild.textContent = "This question cannot be shown.";
}

function draw(view) {
  const [a, b] = view.sides;
  const pair = view.kind === "pair";
  state.view = view;
  $("empty").hidden = true;
  $("work").hidden = false;
  $("question").textContent = pair ? "Are these one person, or two?" : "Is this one person, or are there two?";
  $("why").textContent = state.question.reason || "";
  const across = `faces of one column are ${figure(view.between)} alike with those of the other`;
  const likeness = pair ? `${across}, the two prototypes ${figure(view.prototypes)}` : across;
  const photos = view.shared_photos ? `; ${view.shared_photos} photos show both: seldom one person` : "";
  $("figures").textContent = likeness + photos;
  $("about").textContent = "";
  columns[0].show(a, pair ? a.identity : `${a.identity}: main part`);
  columns[1].show(b, pair ? b.identity : "The rest: may be somebody else");
  $("link-list").replaceChildren(...view.links.map(linkItem));
  $("links").hidden = !view.links.length;
  const same = document.querySelector("[data-do=same] span");
  same.textContent = pair ? "Same person" : "All one person";
  notice(view.gallery_version);
  selectionChanged();
}

function linkItem(link) {
  const item = document.createElement("li");
  for (const face of [link.a, link.b]) {
    const image = document.createElement("img");
    image.src = `/api/face/${encodeURIComponent(face)}`;
    image.alt = "";
    image.loading = "lazy";
    item.append(image);
  }
  const like = document.createElement("div");
  like.textContent = figure(link.similarity);
  item.append(like);
  return item;
}

async function moreFaces(number) {
  const at = columns.map((column, i) => (i === number ? column.faces.length : column.side.total));
  await working(async () => columns[number].append((await ask(state.question, at)).sides[number]));
}

// ---- a new gallery

function notice(version) {
  if (state.version && version !== state.version) {
    $("banner").hidden = false;
    $("banner").textContent = `Gallery ${version} was published: the questions are new, your answers are in it.`;
    state.version = version;
    queue.load().then(show).catch(complain);
  }
  state.version = version;
}

async function lookAgain() {
  const session = await get("/api/session");
  $("who").textContent = `gallery ${session.gallery_version} · purpose ${session.purpose} · ${session.reviewer}`;
  notice(session.gallery_version);
  return session;
}

// ---- answers

async function answer(action) {
  if (!state.view) return;
  const request = requestFor(action, state.view, columns);
  if (typeof request === "string") {
    complain({ text: request });
    return;
  }
  await working(() => send(request, false));
}

async function send(request, supersede) {
  const reason = $("reason");
  say("Recording…");
  try {
    const recorded = await record(request, reason.value, state.view.gallery_version, supersede);
    state.mine.push(recorded.seq);
    reason.value = "";
    for (const column of columns) column.all(false);
    await queue.load();
    say(sentence(request, recorded));
  } catch (error) {
    if (error.kind !== "Contradiction") throw error;
    say("");
    if (await overrules(error)) await send(request, true);
    else say("Left as it was; nothing was recorded.");
  }
}

function overrules(error) {
  const dialog = $("contradiction");
  $("contradiction-list").replaceChildren(...error.contradicts.map((row) => entry(told(row))));
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "overrule"), { once: true });
  });
}

async function undo(seq) {
  if (seq === undefined) {
    await openLog();
    return;
  }
  await working(async () => {
    await post("/api/undo", { seq, reason: $("reason").value.trim() });
    state.mine = state.mine.filter((one) => one !== seq);
    await queue.load();
    say(`Correction ${seq} no longer counts.`);
  });
}

async function skip() {
  if (!state.question) return;
  const { identity, other } = state.question;
  await working(async () => {
    await post("/api/skip", { identity, other: other || null });
    await queue.load();
    step(1);
  });
}

function step(by) {
  const one = queue.step(by);
  if (one) go(one);
  else say(by > 0 ? "That was the last question." : "That is the first question.");
}

// ---- dialogs

function entry(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}

async function openLog() {
  const rows = await get("/api/corrections", { limit: 50 });
  $("log-list").replaceChildren(
    ...rows.map((row) => {
      const item = entry(`${told(row)} `);
      if (row.counts) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = `Undo ${row.seq}`;
        button.addEventListener("click", () => { $("log").close(); undo(row.seq); });
        item.append(button);
      }
      return item;
    }),
  );
  if (!rows.length) $("log-list").replaceChildren(entry("none yet"));
  $("log").showModal();
}

function openHelp() {
  $("help").showModal();
}

// ---- keys and buttons

const DO = {
  split: () => answer("split"),
  reject: () => answer("reject"),
  same: () => answer("same"),
  different: () => answer("different"),
  confirm: () => answer("confirm"),
  undo: () => undo(state.mine.at(-1)),
  skip,
  next: () => step(1),
  previous: () => step(-1),
};

const BY_KEY = {
  s: DO.split, r: DO.reject, m: DO.same, d: DO.different, c: DO.confirm, u: DO.undo, k: DO.skip, n: DO.next, p: DO.previous,
  1: () => columns[0].list.focus(),
  2: () => columns[1].list.focus(),
  a: () => columns[1].all(true),
  "/": () => $("reason").focus(),
  "?": openHelp,
  Escape: () => columns.forEach((column) => column.all(false)),
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === $("reason")) {
    if (event.key === "Escape" || event.key === "Enter") columns[0].list.focus();
    return;
  }
  const act = BY_KEY[event.key];
  if (!act || (state.loading && !["?", "/"].includes(event.key))) return;
  event.preventDefault();
  act();
});

for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => DO[button.dataset.do]());
$("open-help").addEventListener("click", openHelp);
$("open-log").addEventListener("click", () => openLog().catch(complain));
$("open-queue").addEventListener("click", () => {
  const open = $("queue").classList.toggle("open");
  $("open-queue").setAttribute("aria-expanded", String(open));
});
columns.forEach((column, number) => column.more.addEventListener("click", () => moreFaces(number)));
lasso($("columns"), columns);
window.addEventListener("hashchange", show);

function drawKeys() {
  const rows = KEYS.map(([keys, what]) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = keys;
    const text = document.createElement("td");
    text.textContent = what;
    row.append(name, text);
    return row;
  });
  $("key-list").replaceChildren(...rows);
}

async function begin() {
  drawKeys();
  buttons();
  const ticket = location.hash.match(/^#ticket=([\w-]+)$/);
  try {
    if (ticket) {
      history.replaceState(null, "", "/"); // out of the address before anything else
      await post("/api/session", { ticket: ticket[1] });
    }
    await lookAgain();
    await queue.load();
  } catch (error) {
    nothing("The page cannot be shown.");
    complain(error);
    return;
  }
  await show();
  setInterval(() => lookAgain().catch(complain), LOOK_AGAIN_MS);
}

begin();
