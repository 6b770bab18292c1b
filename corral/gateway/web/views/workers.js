// Workers: what each one is, has and runs, who drains it and why; drain and resume. What they ran
// over time is in `fleet.js`, what changed among them in `rollouts.js`.

import { html, useLayoutEffect, useRef } from "../vendor/htm-preact.js";
import { ask, Buttons, first, may, workerActions } from "../actions.js";
import { now } from "../api.js";
import { Expected } from "../expected.js";
import { clock, command, gib, many, span } from "../format.js";
import { onKeys } from "../keys.js";
import { Nothing, TaskLink, Twin } from "../parts.js";
import { State } from "../states.js";
import { Table } from "../table.js";
import { go, here, place } from "../url.js";
import { gpuName, hostOf } from "./fleet.js";

/** What is known of a drain, in one line. */
export const drainLine = (worker) =>
  worker.admission === "open" ? "" : [worker.drain_reason || "no reason given", worker.drained_by && `by ${worker.drained_by}`, worker.drain_since && `since ${clock(worker.drain_since)}`].filter(Boolean).join(", ");

const has = (worker) =>
  [`${worker.slots_used}/${worker.slots} slots`, worker.cpus > 0 && many(worker.cpus, "core"), worker.memory_gb > 0 && gib(worker.memory_gb), worker.gpus.length > 0 && many(worker.gpus.length, "GPU")].filter(Boolean).join(", ");

const columns = (drained) => [
  { id: "status", title: "State", width: "120px", narrow: "26px", class: "c-state", cell: (w) => html`<${State} state=${w.status} />` },
  { id: "name", title: "Worker", width: "minmax(110px, 1fr)", narrow: "minmax(0, 1fr)", cell: (w) => html`<a class="task-link" href=${here({ name: w.name })}>${w.name}</a>` },
  { id: "host", title: "Host", width: "minmax(90px, .8fr)", from: "wide", cell: (w) => hostOf(w) },
  { id: "has", title: "Has", width: "minmax(240px, 1.4fr)", under: true, cell: has },
  { id: "version", title: "Version", width: "84px", from: "mid", cell: (w) => w.about.corral ?? w.dialect },
  { id: "seen", title: "Seen", width: "92px", from: "wide", class: "number", cell: (w) => (now() - w.seen > 15 ? `${span(now() - w.seen)} ago` : "now") },
  drained && { id: "drain", title: "Why it is drained", width: "minmax(120px, 2fr)", from: "mid", cell: (w) => html`<span title=${drainLine(w)}>${drainLine(w)}</span>` },
  may("operator") && { id: "act", title: "", width: "84px", narrow: "80px", class: "acts", cell: (w) => html`<${Buttons} actions=${workerActions(w)} />` },
].filter(Boolean);

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

function One({ worker, tasks }) {
  return html`<section class="block one">
    <header class="task-head"><h1>${worker.name}</h1> <${State} state=${worker.status} />
      <span class="end"><${Buttons} actions=${workerActions(worker)} /> <a class="act" href=${here({ name: "" })}>Close</a></span></header>
    ${worker.admission !== "open" && html`<p class="summary">${worker.admission}: ${drainLine(worker)}</p>`}
    <dl class="facts">
      <${Fact} name="host">${hostOf(worker)}<//>
      <${Fact} name="health">${worker.health}<//>
      <${Fact} name="registered">${clock(worker.since)}<//>
      <${Fact} name="last heard">${clock(worker.seen)}<//>
      <${Fact} name="slots">${worker.slots_used} of ${worker.slots}<//>
      <${Fact} name="cores">${worker.cpus_used} of ${worker.cpus || "any"}<//>
      <${Fact} name="memory">${gib(worker.memory_gb_used)} of ${worker.memory_gb ? gib(worker.memory_gb) : "any"}<//>
      ${worker.gpus.map((gpu) => html`<${Fact} key=${gpu.uuid} name=${gpuName(gpu)}>${gib(gpu.memory_gb)}, ${gpu.holder ? html`<${TaskLink} id=${gpu.holder} task=${tasks.get(gpu.holder)} />` : "idle"}${gpu.foreign_gb > 0 && `, ${gib(gpu.foreign_gb)} used by others`}<//>`)}
      ${Object.entries(worker.about).filter(([name]) => name !== "host").map(([name, value]) => html`<${Fact} key=${name} name=${name}>${value}<//>`)}
      ${Object.entries(worker.labels).map(([name, value]) => html`<${Fact} key=${name} name=${`label ${name}`}>${value}<//>`)}
      ${worker.caches.length > 0 && html`<${Fact} name="caches">${worker.caches.join(", ")}<//>`}
      <${Fact} name="serves">${worker.kinds.join(", ")}<//>
    </dl>
    <h2>Runs now</h2>
    ${worker.tasks.length ? html`<ul>${worker.tasks.slice(0, 50).map((id) => html`<li key=${id}><${TaskLink} id=${id} task=${tasks.get(id)} /></li>`)}</ul>` : html`<${Nothing}>Nothing.<//>`}
    <p><a href=${place({ view: "queue", state: "all", worker: worker.name })}>everything it ran</a></p>
    <div class="twins"><${Twin} command=${command("worker", "status", worker.name)} />${workerActions(worker).map((action) => html`<${Twin} key=${action.word} command=${action.twin("")} />`)}</div>
  </section>`;
}

export function Workers({ state: { workers, tasks, expected, loaded }, where }) {
  const search = useRef(null);
  useLayoutEffect(() => onKeys({ "/": () => search.current?.focus() }), []);
  const text = (where.q ?? "").toLowerCase();
  const rows = [...workers.values()]
    .filter((w) => !text || [w.name, w.status, hostOf(w), w.drain_reason, w.about.corral ?? "", ...w.kinds].some((word) => word.toLowerCase().includes(text)))
    .sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  const one = workers.get(where.name);
  return html`<section class="view fill">
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input ref=${search} type="search" placeholder="Filter by name, state, host, kind, version …" aria-label="Filter" value=${where.q ?? ""}
        onInput=${(event) => go(here({ q: event.target.value }), { replace: true })} />
      <span class="soft found">${rows.length} shown</span>
    </form>
    <${Expected} expected=${expected} workers=${workers} />
    ${one && html`<${One} worker=${one} tasks=${tasks} />`}
    ${loaded && !rows.length ? html`<${Nothing}>No worker. <code>corral worker start --broker ENDPOINT --name w1</code><//>` : html`<${Table} label="Workers" columns=${columns([...workers.values()].some(drainLine))} rows=${rows} id=${(w) => w.name}
      onOpen=${(w) => go(here({ name: w.name }))} keys=${{ x: (w) => ask(first(workerActions(w), "Drain")), r: (w) => ask(first(workerActions(w), "Resume")) }} />`}
  </section>`;
}
