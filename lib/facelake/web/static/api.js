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

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
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
