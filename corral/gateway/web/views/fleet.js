// The fleet: hosts, the workers on them, and what each slot and each GPU ran over time; a gap is a
// time in which it was idle. What can be done to a worker is in `workers.js`.

import { html } from "../vendor/htm-preact.js";
import { now } from "../api.js";
import { Expected } from "../expected.js";
import { clock, count, many, plural, short, span, title } from "../format.js";
import { bars, idle, intervals, packed } from "../lanes.js";
import { Nothing, WorkerLink } from "../parts.js";
import { State } from "../states.js";
import { here, place } from "../url.js";

const SPANS = { "2m": 120, "10m": 600, "1h": 3600, "6h": 21600, "1d": 86400 };
const MOST_LANES = 16; // of one worker; more slots are told, not drawn

/** Where a worker is: its label, or the machine it says it is on. */
export const hostOf = (worker) => worker.labels.node || worker.labels.host || worker.about.host || worker.name;

/** What a person calls a GPU. */
export const gpuName = (gpu) => `GPU ${gpu.declared ? short(gpu.uuid.replace(/^GPU-/, "")) : gpu.name || short(gpu.uuid)}`;

function Lane({ label, lane, from, to, gpu }) {
  const rest = idle(lane, from, to);
  return html`<div class=${gpu ? "lane gpu" : "lane"}>
    <span class="lane-name" title=${label}>${label}</span>
    <span class="lane-line">
      ${bars(lane, from, to).map((bar) => html`<a key=${`${bar.row.id}${bar.begin}`} class=${`lane-bar s-${bar.row.state}`}
        href=${bar.stands > 1 ? place({ view: "queue", state: "all", worker: bar.row.worker }) : place({ view: "task", id: bar.row.id })}
        style=${{ left: `${bar.left * 100}%`, width: `max(2px, ${bar.width * 100}%)` }}
        title=${`${bar.stands > 1 ? many(bar.stands, "task") : `${title(bar.row)} (${bar.row.kind}), ${bar.row.state}`}\n${clock(bar.begin)} for ${span(bar.end - bar.begin)}`}>
        <span>${bar.stands > 1 ? count(bar.stands) : title(bar.row)}</span></a>`)}
    </span>
    <span class="lane-idle" title="idle in this span of time">${rest > 0.005 ? `${Math.round(rest * 100)} % idle` : "full"}</span>
  </div>`;
}

const Meter = ({ label, used, all, unit }) =>
  all
    ? html`<span class="meter" title=${`${label}: ${trim(used)} of ${trim(all)} ${unit} booked`}>${label} <span class="meter-line"><span style=${{ width: `${Math.min(100, (used / all) * 100)}%` }} /></span> ${trim(used)}/${trim(all)}${unit && ` ${unit}`}</span>`
    : null;
const trim = (n) => Number(n.toFixed(1));

function Worker({ worker, rows, from, to }) {
  const lanes = Math.min(worker.slots, MOST_LANES);
  const mine = intervals(rows, from, to);
  return html`<article class="worker">
    <header>
      <h3><${WorkerLink} name=${worker.name} /></h3> <${State} state=${worker.status} />
      ${worker.drain_reason && html`<span class="soft">${worker.drain_reason}</span>`}
      <span class="meters">
        <${Meter} label="slots" used=${worker.slots_used} all=${worker.slots} unit="" />
        <${Meter} label="cores" used=${worker.cpus_used} all=${worker.cpus} unit="" />
        <${Meter} label="memory" used=${worker.memory_gb_used} all=${worker.memory_gb} unit="GiB" />
      </span>
    </header>
    ${worker.gpus.map((gpu) => html`<${Lane} key=${gpu.uuid} gpu label=${gpuName(gpu)} from=${from} to=${to}
      lane=${mine.filter(({ row }) => row.gpus.includes(gpu.uuid))} />`)}
    ${packed(mine, lanes).map((lane, n) => html`<${Lane} key=${n} label=${`slot ${n + 1}`} lane=${lane} from=${from} to=${to} />`)}
    ${worker.slots > lanes && html`<p class="soft">and ${many(worker.slots - lanes, "more slot")}</p>`}
  </article>`;
}

function ticks(from, to) {
  const step = [20, 60, 120, 600, 1800, 3600, 7200, 21600].find((size) => (to - from) / size <= 6) ?? 43200;
  const made = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) made.push(at);
  return made;
}

export function Fleet({ state: { tasks, workers, expected, loaded }, where }) {
  const to = now();
  const from = to - (SPANS[where.span] ?? SPANS["10m"]);
  const byWorker = new Map();
  for (const row of tasks.values()) {
    if (!row.worker || !row.started) continue;
    const list = byWorker.get(row.worker);
    if (list) list.push(row);
    else byWorker.set(row.worker, [row]);
  }
  const hosts = new Map();
  for (const worker of [...workers.values()].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }))) {
    const host = hostOf(worker);
    hosts.set(host, [...(hosts.get(host) ?? []), worker]);
  }
  const slots = [...workers.values()];
  const sum = (name) => slots.reduce((n, worker) => n + worker[name], 0);
  const gpus = slots.flatMap((worker) => worker.gpus);
  return html`<section class="view">
    <div class="filters">
      <p class="figures"><b>${count(slots.length)}</b> ${plural(slots.length, "worker")} on <b>${count(hosts.size)}</b> ${plural(hosts.size, "host")}, <b>${sum("slots_used")}</b> of ${many(sum("slots"), "slot")} busy${gpus.length > 0 && html`, <b>${gpus.filter((gpu) => gpu.holder).length}</b> of ${many(gpus.length, "GPU")}`}</p>
      <nav class="spans" aria-label="Span of time">${Object.keys(SPANS).map((name) => html`<a key=${name} href=${here({ span: name })} aria-current=${name === (where.span ?? "10m") ? "true" : "false"}>${name}</a>`)}</nav>
    </div>
    <${Expected} expected=${expected} workers=${workers} />
    ${loaded && !hosts.size && html`<${Nothing}>No worker has registered. <code>corral worker start --broker ENDPOINT --name w1</code><//>`}
    ${[...hosts].map(([host, there]) => html`<section class="host" key=${host}>
      <h2>${host} <span class="soft">${many(there.length, "worker")}</span></h2>
      <div class="times" aria-hidden="true">${ticks(from, to).map((at) => html`<span key=${at} style=${{ left: `${((at - from) / (to - from)) * 100}%` }}>${clock(at).slice(-8, to - from < 300 ? undefined : -3)}</span>`)}</div>
      ${there.map((worker) => html`<${Worker} key=${worker.name} worker=${worker} rows=${byWorker.get(worker.name) ?? []} from=${from} to=${to} />`)}
    </section>`)}
  </section>`;
}
