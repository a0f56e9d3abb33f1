// The page: signs in, shows a question, takes answers. Its state is in the address: #kind/identity[/other], or
// #identity/id for one identity without a question.

import { get, keepToken, post, showFace } from "./api.js";
import { describe, record, requestFor, summary } from "./answers.js";
import { Browser, identityOf } from "./browser.js";
import { Column } from "./column.js";
import { lasso } from "./lasso.js";
import { Queue, fromHash, hashOf } from "./queue.js";

const PAGE = 60;
const REFRESH_MS = 30000;
const KEYS = [
  ["n, p", "next and previous unanswered question"],
  ["1, 2", "go to the left or right column"],
  ["arrows", "move between the faces; with shift, select them"],
  ["space", "select or deselect the face"],
  ["a", "select all faces of the right column"],
  ["escape", "clear the selection"],
  ["s", "split: the selected faces are all of one other person"],
  ["r", "reject: none of the selected faces is this person"],
  ["x", "not a face: the selected are drawings, animals or patterns"],
  ["m", "same person: merge two identities; for one identity, all faces shown are one person"],
  ["d", "different people: the two identities stay apart"],
  ["c", "confirm: the selected faces are this person"],
  ["u", "undo the last answer"],
  ["k", "skip: leave the question for later"],
  ["i", "list identities, or the questions again"],
  ["/", "write a reason"],
  ["?", "this help"],
];

const $ = (id) => document.getElementById(id);
const format = (value) => (value === null ? "–" : value.toFixed(2));
const state = { view: null, question: null, version: 0, recorded: [], loading: 0 };
const columns = [0, 1].map((number) => new Column(number, selectionChanged));
const queue = new Queue((question) => go(question));
const browser = new Browser(withBusy);

// ---- messages

function showStatus(text) {
  $("alert").textContent = "";
  $("status").textContent = text;
}

function showError(error) {
  $("status").textContent = "";
  $("alert").textContent = error.text || String(error.message || error);
}

function selectionChanged() {
  const count = columns.reduce((sum, column) => sum + column.selection.size, 0);
  showStatus(count ? `${count} selected` : "");
  updateButtons();
}

function updateButtons() {
  const busy = state.loading > 0 || !state.view;
  const selected = columns.some((column) => column.selection.size > 0);
  const enabled = { split: selected, reject: selected, not_a_face: selected, confirm: selected, different: state.view?.kind === "pair" };
  for (const button of document.querySelectorAll("[data-do]")) {
    const name = button.dataset.do;
    button.disabled = (busy && !["undo", "next", "previous"].includes(name)) || enabled[name] === false;
  }
}

async function withBusy(task) {
  state.loading += 1;
  updateButtons();
  try {
    return await task();
  } catch (error) {
    showError(error);
    if (error.status === 409 && error.kind === "ConfigError") await refreshSession();
    return null;
  } finally {
    state.loading -= 1;
    updateButtons();
  }
}

// ---- views

function go(question) {
  $("queue").classList.remove("open");
  $("open-queue").setAttribute("aria-expanded", "false");
  if (location.hash === hashOf(question)) show();
  else location.hash = hashOf(question);
}

function showEmpty(text) {
  state.view = null;
  $("work").hidden = true;
  $("person").hidden = true;
  $("empty").hidden = false;
  $("empty").firstElementChild.textContent = text;
}

const fetchView = (question, at = [0, 0]) => {
  const page = { at_a: at[0], at_b: at[1], limit: PAGE };
  return question.other
    ? get("/api/pair", { a: question.identity, b: question.other, ...page })
    : get("/api/identity", { a: question.identity, ...page });
};

async function showIdentity(identity) {
  $("queue").classList.remove("open");
  $("open-queue").setAttribute("aria-expanded", "false");
  state.question = null;
  queue.draw(null);
  browser.open(true);
  await withBusy(async () => {
    showEmpty("Loading…");
    const view = await browser.show(identity);
    if (!view || identityOf(location.hash) !== identity) return;
    $("empty").hidden = true;
    $("person").hidden = false;
    noticeVersion(view.gallery_version);
  });
  if ($("person").hidden) $("empty").firstElementChild.textContent = "This identity cannot be shown.";
}

async function show() {
  const identity = identityOf(location.hash);
  if (identity) return showIdentity(identity);
  const question = fromHash(location.hash) || queue.first();
  if (!question) {
    showEmpty("There is no question: this gallery has no doubtful identity. Choose an identity from the list.");
    browser.open(true);
    return;
  }
  state.question = queue.find(question) || question;
  history.replaceState(null, "", hashOf(question));
  queue.draw(state.question);
  await withBusy(async () => {
    showEmpty("Loading…");
    const view = await fetchView(question);
    if (hashOf(state.question) !== hashOf(question)) return;
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
  $("question").textContent = pair ? "Are these identities one person or two?" : "Is this identity one person or two?";
  $("why").textContent = state.question.reason || "";
  const between = `Mean similarity between the columns ${format(view.between)}`;
  const similarity = pair ? `${between}, similarity of the templates ${format(view.prototypes)}` : between;
  const photos = view.shared_photos ? `; ${view.shared_photos} photos show both, which is rare for one person` : "";
  $("figures").textContent = similarity + photos;
  $("about").textContent = "";
  columns[0].show(a, pair ? a.identity : `${a.identity}: main part`);
  columns[1].show(b, pair ? b.identity : "The rest: possibly another person");
  $("link-list").replaceChildren(...view.links.map(linkItem));
  $("links").hidden = !view.links.length;
  const same = document.querySelector("[data-do=same] span");
  same.textContent = pair ? "Same person" : "All one person";
  noticeVersion(view.gallery_version);
  selectionChanged();
}

function linkItem(link) {
  const item = document.createElement("li");
  for (const face of [link.a, link.b]) {
    const image = document.createElement("img");
    image.alt = "";
    showFace(image, face);
    item.append(image);
  }
  const caption = document.createElement("div");
  caption.textContent = format(link.similarity);
  item.append(caption);
  return item;
}

async function moreFaces(number) {
  const at = columns.map((column, i) => (i === number ? column.faces.length : column.side.total));
  await withBusy(async () => columns[number].append((await fetchView(state.question, at)).sides[number]));
}

// ---- new gallery versions

function noticeVersion(version) {
  if (state.version && version !== state.version) {
    $("banner").hidden = false;
    $("banner").textContent = `Gallery ${version} was published. It contains your answers; the questions were updated.`;
    state.version = version;
    queue.load().then(show).then(() => browser.isOpen && browser.load()).catch(showError);
  }
  state.version = version;
}

async function refreshSession() {
  const session = await get("/api/session");
  $("who").textContent = `gallery ${session.gallery_version} · purpose ${session.purpose} · ${session.reviewer}`;
  noticeVersion(session.gallery_version);
  return session;
}

// ---- answers

async function answer(action) {
  if (!state.view) return;
  const request = requestFor(action, state.view, columns);
  if (typeof request === "string") {
    showError({ text: request });
    return;
  }
  await withBusy(() => recordAnswer(request, false));
}

async function recordAnswer(request, supersede) {
  const reason = $("reason");
  showStatus("Recording…");
  try {
    const recorded = await record(request, reason.value, state.view.gallery_version, supersede);
    state.recorded.push(recorded.seq);
    reason.value = "";
    for (const column of columns) column.selectAll(false);
    await queue.load();
    showStatus(summary(request, recorded));
  } catch (error) {
    if (error.kind !== "Contradiction") throw error;
    showStatus("");
    if (await confirmOverrule(error)) await recordAnswer(request, true);
    else showStatus("The earlier answer stays; nothing was recorded.");
  }
}

function confirmOverrule(error) {
  const dialog = $("contradiction");
  $("contradiction-list").replaceChildren(...error.contradicts.map((row) => entry(describe(row))));
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
  await withBusy(async () => {
    await post("/api/undo", { seq, reason: $("reason").value.trim() });
    state.recorded = state.recorded.filter((number) => number !== seq);
    await queue.load();
    showStatus(`Correction ${seq} no longer counts.`);
  });
}

async function skip() {
  if (!state.question) return;
  const { identity, other } = state.question;
  await withBusy(async () => {
    await post("/api/skip", { identity, other: other || null });
    await queue.load();
    step(1);
  });
}

function step(by) {
  const question = queue.step(by);
  if (question) go(question);
  else showStatus(by > 0 ? "That was the last question." : "That is the first question.");
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
      const item = entry(`${describe(row)} `);
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

function openList(identities) {
  browser.open(identities);
  if (identities) $("listing").focus();
}

function openHelp() {
  $("help").showModal();
}

// ---- keys and buttons

const ACTIONS = {
  split: () => answer("split"),
  reject: () => answer("reject"),
  not_a_face: () => answer("not_a_face"),
  same: () => answer("same"),
  different: () => answer("different"),
  confirm: () => answer("confirm"),
  undo: () => undo(state.recorded.at(-1)),
  skip,
  next: () => step(1),
  previous: () => step(-1),
};

const KEY_ACTIONS = {
  s: ACTIONS.split, r: ACTIONS.reject, x: ACTIONS.not_a_face, m: ACTIONS.same, d: ACTIONS.different, c: ACTIONS.confirm, u: ACTIONS.undo, k: ACTIONS.skip, n: ACTIONS.next, p: ACTIONS.previous,
  1: () => columns[0].list.focus(),
  2: () => columns[1].list.focus(),
  a: () => columns[1].selectAll(true),
  i: () => openList(!browser.isOpen),
  "/": () => $("reason").focus(),
  "?": openHelp,
  Escape: () => columns.forEach((column) => column.selectAll(false)),
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === $("reason")) {
    if (event.key === "Escape" || event.key === "Enter") columns[0].list.focus();
    return;
  }
  if (event.target.closest("input, select")) return;
  const action = KEY_ACTIONS[event.key];
  if (!action || (state.loading && !["?", "/"].includes(event.key))) return;
  event.preventDefault();
  action();
});

for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => ACTIONS[button.dataset.do]());
$("open-help").addEventListener("click", openHelp);
$("open-log").addEventListener("click", () => openLog().catch(showError));
$("open-queue").addEventListener("click", () => {
  const open = $("queue").classList.toggle("open");
  $("open-queue").setAttribute("aria-expanded", String(open));
});
for (const button of document.querySelectorAll("[data-list]")) {
  button.addEventListener("click", () => openList(button.dataset.list === "identities"));
}
columns.forEach((column, number) => column.more.addEventListener("click", () => moreFaces(number)));
lasso($("columns"), columns);
window.addEventListener("hashchange", show);

function drawKeys() {
  const rows = KEYS.map(([keys, meaning]) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = keys;
    const text = document.createElement("td");
    text.textContent = meaning;
    row.append(name, text);
    return row;
  });
  $("key-list").replaceChildren(...rows);
}

async function start() {
  drawKeys();
  updateButtons();
  const ticket = location.hash.match(/^#ticket=([\w-]+)$/);
  try {
    if (ticket) {
      history.replaceState(null, "", "/"); // remove the ticket from the address before anything else
      keepToken((await post("/api/session", { ticket: ticket[1] })).token);
    }
    await refreshSession();
    await queue.load();
  } catch (error) {
    showEmpty("The page cannot be shown.");
    showError(error);
    return;
  }
  await show();
  setInterval(() => refreshSession().catch(showError), REFRESH_MS);
}

start();
