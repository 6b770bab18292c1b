// The fleet that ought to be there against the one that is: who is silent, and whom nobody expects.
// Whom to expect is told by the stream, when the gateway was told (`gateway.expect`).

import { html } from "./vendor/htm-preact.js";
import { count, many } from "./format.js";
import { WorkerLink } from "./parts.js";

const HEARD = new Set(["live", "suspect"]);

/** {silent, unknown}, as `GET /fleet/expected` tells them. */
export function difference(expected, workers) {
  const wanted = new Set(expected);
  return {
    silent: expected.filter((name) => !HEARD.has(workers.get(name)?.health)),
    unknown: [...workers.keys()].filter((name) => !wanted.has(name)).sort(),
  };
}

const Names = ({ of }) => of.map((name, n) => html`${n > 0 && ", "}<${WorkerLink} key=${name} name=${name} />`);

/** One line of it; nothing when nobody has said whom to expect. */
export function Expected({ expected, workers }) {
  if (!expected) return null;
  const { silent, unknown } = difference(expected, workers);
  return html`<p class="figures expected" role="status"><b>${count(expected.length - silent.length)}</b> of ${many(expected.length, "expected worker")} ${expected.length === 1 ? "is" : "are"} there
    ${silent.length > 0 && html`<span class="trouble">Not there: <${Names} of=${silent} /></span>`}
    ${unknown.length > 0 && html`<span class="soft">Nobody expects: <${Names} of=${unknown} /></span>`}</p>`;
}
