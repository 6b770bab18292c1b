// Calls of the REST interface: the answer, or an error that says what, why and what to do. Live
// state comes by the stream (`live.js`); what the calls mean is told by /api/v1/openapi.json.

const BASE = "/api/v1";
const clock = {
  ahead: 0, // seconds by which the gateway's clock is ahead of ours
  pinned: null, // the past moment that is shown
};

/** A refusal as the gateway tells it. */
export class Problem extends Error {
  constructor(status, { detail, next, code }) {
    super(detail || `the gateway answered ${status}`);
    this.status = status;
    this.next = next || "";
    this.code = code || "";
  }
}

/** Seconds since 1970 by the gateway's clock. */
export const present = () => Date.now() / 1000 + clock.ahead;

/** The moment that is shown: the present, or the past one that was chosen. */
export const now = () => clock.pinned ?? present();
export const pin = (at) => void (clock.pinned = at);
export const pinned = () => clock.pinned !== null;

/** GET JSON. */
export const get = (path, options) => call(path, options);

/** POST JSON. */
export const post = (path, body = {}) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

/** One path segment: an id may have any character. */
export const segment = (id) => encodeURIComponent(id);

/** A response whose body is read piece by piece. */
export async function open(path, options = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The gateway does not answer.", next: "It is tried again.", code: "unreachable" });
  }
  if (answer.ok) return answer;
  if (answer.status === 401) location.reload(); // it asks for a token
  const told = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, told);
}

async function call(path, options) {
  const answer = await open(path, options);
  const date = Date.parse(answer.headers.get("date") ?? "");
  // The header has whole seconds: nearer than two there is no telling.
  const ahead = (date - Date.now()) / 1000;
  if (Number.isFinite(ahead)) clock.ahead = Math.abs(ahead) > 2 ? ahead : 0;
  return answer.json();
}
