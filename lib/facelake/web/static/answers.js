// Requests for the answers of the reviewer (each becomes a correction on the server), and texts about corrections.

import { post } from "./api.js";

const DEFAULT_REASONS = {
  split: "these faces show another person",
  reject: "not the person of this identity",
  merge: "the same person in both",
  distinct: "two different people",
  not_a_face: "no face of a person",
  confirm: "this is the person of this identity",
};

export const LABELS = {
  split: "split off",
  reject: "rejected",
  merge: "same person",
  distinct: "different people",
  not_a_face: "not a face",
  confirm: "confirmed",
  undo: "undone",
};

const countFaces = (count) => (count === 1 ? "1 face" : `${count} faces`);

// Returns the request for an action, or a sentence that says why the action is not possible.
export function requestFor(action, view, columns) {
  const selected = columns.map((column) => column.selected);
  const count = selected[0].length + selected[1].length;
  const single = view.kind === "one";
  const a = view.sides[0].identity;
  const b = view.sides[1].identity;
  const from = single || selected[0].length ? a : b;
  const faces = [...selected[0], ...selected[1]];
  const inBoth = !single && selected[0].length > 0 && selected[1].length > 0;
  if (action === "same" && !single) return { kind: "merge", identity: a, other: b, faces: [] };
  if (action === "same") {
    const all = columns.flatMap((column) => column.faces.map((face) => face.face_id));
    return { kind: "confirm", identity: a, faces: all };
  }
  if (action === "different") {
    if (single) return "Select the faces of the other person, then split them off (s).";
    return { kind: "distinct", identity: a, other: b, faces: [] };
  }
  if (!count) return "Select the faces first: click, space, or draw around them.";
  if (inBoth) return "Select faces of one column only.";
  const side = view.sides[single ? 0 : Number(from === b)];
  if (action === "split" && count >= side.size) return "The identity would keep no face: select fewer faces.";
  return { kind: action, identity: from, faces };
}

export function summary(request, recorded) {
  const faces = request.faces.length ? `${countFaces(request.faces.length)} ` : "";
  const overruled = recorded.supersedes.length ? ` It overrules ${recorded.supersedes.join(", ")}.` : "";
  return `Correction ${recorded.seq}: ${faces}${LABELS[request.kind]}. It takes effect with the next run.${overruled}`;
}

export async function record(request, reason, version, supersede = false) {
  const text = reason.trim() || DEFAULT_REASONS[request.kind];
  return post("/api/answer", { ...request, reason: text, supersede, gallery_version: version });
}

export function describe(row) {
  const identities = [row.identity_a, row.identity_b].filter(Boolean).join(" and ");
  const faces = row.faces && !row.identity_b ? `, ${countFaces(row.faces)}` : "";
  const reason = row.reason ? `: “${row.reason}”` : "";
  const overruled = (row.undoes || []).length ? ` (overrules ${row.undoes.join(", ")})` : "";
  const text = row.kind === "undo"
    ? `${LABELS.undo}: ${row.undoes.join(", ")}`
    : `${LABELS[row.kind]}${overruled}, ${identities}${faces}`;
  return `${row.seq}: ${text}${reason} — ${row.reviewer}, ${row.recorded_at.slice(0, 10)}`;
}
