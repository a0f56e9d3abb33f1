// Requests to the server, and the errors that it reports.

export class ApiError extends Error {
  constructor(status, body) {
    super(body.what || `error ${status}`);
    this.status = status;
    this.kind = body.kind || "";
    this.next = body.next || "";
    this.contradicts = body.contradicts || [];
  }

  get text() {
    return this.next ? `${this.message}. Next: ${this.next}.` : this.message;
  }
}

// The token of this page. It is bound to host and port and to this tab; the cookie alone opens nothing.
const TOKEN = "facelake-token";

export const keepToken = (token) => sessionStorage.setItem(TOKEN, token);

async function request(path, options) {
  const headers = { ...options.headers, "x-facelake-token": sessionStorage.getItem(TOKEN) || "" };
  return fetch(path, { credentials: "same-origin", cache: "no-store", ...options, headers });
}

async function send(path, options) {
  let response;
  try {
    response = await request(path, options);
  } catch {
    throw new ApiError(0, { what: "the server does not answer", next: "run `facelake review` again" });
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = { what: text };
  }
  throw new ApiError(response.status, body);
}

const query = (values) => new URLSearchParams(values).toString();

export const get = (path, values = {}) => send(`${path}?${query(values)}`, {});

export const post = (path, body) =>
  send(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

// Crops are fetched with the token when they come near the view, since an <img> cannot send a header.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    load(entry.target);
  }
}, { rootMargin: "400px" });

async function load(image) {
  try {
    const response = await request(`/api/face/${encodeURIComponent(image.dataset.face)}`, {});
    if (!response.ok) throw new Error();
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    image.src = URL.createObjectURL(await response.blob());
  } catch {
    image.alt = "image not available";
  }
}

export function showFace(image, face) {
  image.dataset.face = face;
  seen.observe(image);
}
