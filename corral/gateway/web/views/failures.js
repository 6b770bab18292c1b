// What failed, grouped by what is the same in it: one trouble is one line, however many tasks met it.
// It groups the tasks that the page is told of; single ones are in the queue.

import { html } from "../vendor/htm-preact.js";
import { bulkAction, Buttons, may } from "../actions.js";
import { clock, count, fingerprint, many, plural, span } from "../format.js";
import { Nothing, TaskLink, WorkerLink } from "../parts.js";
import { Mark } from "../states.js";
import { here, place } from "../url.js";

const BAD = new Set(["failed", "expired", "aborted"]);
const LISTED = 30; // tasks of an open group
const BARS = 24; // of the small picture of when they failed

/** Groups of like failures, the newest first. */
export function grouped(tasks) {
  const groups = new Map();
  for (const row of tasks.values()) {
    if (!BAD.has(row.state)) continue;
    const print = `${row.state}: ${row.kind}: ${fingerprint(row.why || "no message")}`;
    const group = groups.get(print) ?? { print, state: row.state, kind: row.kind, example: row, rows: [], workers: new Set(), first: Infinity, last: 0 };
    group.rows.push(row);
    group.first = Math.min(group.first, row.ended ?? 0);
    if ((row.ended ?? 0) >= group.last) Object.assign(group, { last: row.ended ?? 0, example: row });
    if (row.worker) group.workers.add(row.worker);
    groups.set(print, group);
  }
  return [...groups.values()].sort((one, other) => other.last - one.last);
}

function When({ group, from, to }) {
  const bars = new Array(BARS).fill(0);
  for (const row of group.rows) bars[Math.min(BARS - 1, Math.floor(((row.ended - from) / (to - from || 1)) * BARS))] += 1;
  const most = Math.max(...bars);
  return html`<svg class="when" viewBox=${`0 0 ${BARS * 4} 20`} aria-hidden="true">${bars.map((n, x) => n > 0 && html`<rect x=${x * 4} y=${20 - 4 - (16 * n) / most} width="3" height=${4 + (16 * n) / most} />`)}</svg>`;
}

function Group({ group, open, from, to }) {
  const retry = may("client") && group.state === "failed" ? [{ ...bulkAction("Retry", { state: "failed", kind: group.kind }), word: `Retry failed ${group.kind} …` }] : [];
  return html`<article class="group">
    <h2><a href=${here({ group: open ? "" : group.print })} aria-expanded=${String(open)}>
      <span class=${`group-n s-${group.state}`}><${Mark} state=${group.state} />${count(group.rows.length)}</span>
      <span class="group-why">${group.example.why || `${group.state}, and nothing was said`}</span>
    </a></h2>
    <p class="soft group-line"><span>${group.kind}</span><span>${group.state}</span>
      <span>${group.rows.length > 1 ? `${clock(group.first)} to ${clock(group.last)}` : clock(group.last)}</span>
      <span>${group.workers.size > 0 && (group.workers.size > 3 ? many(group.workers.size, "worker") : [...group.workers].map((name) => html`<${WorkerLink} name=${name} /> `))}</span>
      <${When} group=${group} from=${from} to=${to} /></p>
    ${open && html`<div class="group-open">
      <ul>${group.rows.slice(-LISTED).reverse().map((row) => html`<li key=${row.id}><${TaskLink} id=${row.id} task=${row} />
        <span class="soft">${clock(row.ended)}${row.started && row.ended ? `, after ${span(row.ended - row.started)}` : ""}${row.worker && ` on ${row.worker}`}</span></li>`)}</ul>
      ${group.rows.length > LISTED && html`<p><a href=${place({ view: "queue", state: group.state, kind: group.kind })}>all ${count(group.rows.length)} in the queue</a></p>`}
      <${Buttons} actions=${retry} />
    </div>`}
  </article>`;
}

export function Failures({ state: { tasks, loaded }, where }) {
  const groups = grouped(tasks);
  const from = Math.min(...groups.map((group) => group.first));
  const to = Math.max(...groups.map((group) => group.last));
  const n = groups.reduce((sum, group) => sum + group.rows.length, 0);
  if (loaded && !groups.length) return html`<section class="view"><${Nothing}>Nothing has failed.<//></section>`;
  return html`<section class="view">
    <p class="figures"><b>${count(n)}</b> failed in <b>${count(groups.length)}</b> ${plural(groups.length, "way")}</p>
    ${groups.map((group) => html`<${Group} key=${group.print} group=${group} open=${where.group === group.print} from=${from} to=${to} />`)}
  </section>`;
}
