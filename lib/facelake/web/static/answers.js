// What the keys and buttons do: each answer becomes a correction on the server.

import { post } from "./api.js";

const WHY = {
  split: "these faces look like somebody else",
  reject: "not the person of this identity",
  merge: "the same person in both",
  distinct: "two different people",
  confirm: "this is the person of this identity",
};

export const WORDS = {
  split: "split off",
  reject: "rejected",
  merge: "same person",
  distinct: "different people",
  confirm: "confirmed",
  undo: "taken back",
};

const some = (count) => (count === 1 ? "1 face" : `${count} faces`);

// The request for a key, or a sentence on why there is none.
export function requestFor(action, view, columns) {
  const picked = columns.map((column) => column.selected);
  const count = picked[0].length + picked[1].length;
  const one = view.kind === "one";
  const a = view.sides[0].identity;
  const b = view.sides[1].identity;
  const from = one || picked[0].length ? a : b;
  const faces = [...picked[0], ...picked[1]];
  const mixed = !one && picked[0].length > 0 && picked[1].length > 0;
  if (action === "same" && !one) return { kind: "merge", identity: a, other: b, faces: [] };
  if (action === "same") {
    const all = columns.flatMap((column) => column.faces.map((face) => face.face_id));
    return { kind: "confirm", identity: a, faces: all };
  }
  if (action === "different") {
    return one ? "Select the faces of the other person, then split them off (s)." : { kind: "distinct", identity: a, other: b, faces: [] };
  }
  if (!count) return "Select the faces first: click, space, or draw around them.";
  if (mixed) return "Select faces of one column only.";
  if (action === "split" && count >= view.sides[one ? 0 : Number(from === b)].size) return "Nothing of the identity would stay.";
  return { kind: action, identity: from, faces };
}

export function sentence(request, recorded) {
  const what = (request.faces.length ? `${some(request.faces.length)} ` : "") + WORDS[request.kind];
  const over = recorded.supersedes.length ? ` It overrules ${recorded.supersedes.join(", ")}.` : "";
  return `Correction ${recorded.seq}: ${what}. It takes effect with the next night.${over}`;
}

export async function record(request, reason, version, supersede = false) {
  const why = reason.trim() || WHY[request.kind];
  return post("/api/answer", { ...request, reason: why, supersede, gallery_version: version });
}

export function told(row) {
  const about = [row.identity_a, row.identity_b].filter(Boolean).join(" and ");
  const faces = row.faces && !row.identity_b ? `, ${some(row.faces)}` : "";
  const why = row.reason ? `: “${row.reason}”` : "";
  const undone = (row.undoes || []).length ? ` (instead of ${row.undoes.join(", ")})` : "";
  const what = row.kind === "undo" ? `taken back: ${row.undoes.join(", ")}` : `${WORDS[row.kind]}${undone}, ${about}${faces}`;
  return `${row.seq}: ${what}${why} — ${row.reviewer}, ${row.recorded_at.slice(0, 10)}`;
}
