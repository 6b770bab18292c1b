// Roll-outs: which version runs on how many workers, which of them drain and why, and what changed
// among them, so that a rolling update is seen as it goes. Who updates is Ansible (`update.yml`).

import { html } from "../vendor/htm-preact.js";
import { get, now } from "../api.js";
import { clock, count, many, plural } from "../format.js";
import { Answer, Nothing, useAnswer, WorkerLink } from "../parts.js";
import { Mark, State } from "../states.js";
import { place } from "../url.js";
import { drainLine } from "./workers.js";

const SHOWN = 200; // changes

const versionOf = (worker) => worker.about.corral ?? worker.dialect;

function Versions({ workers }) {
  const versions = new Map();
  for (const worker of workers) versions.set(versionOf(worker), [...(versions.get(versionOf(worker)) ?? []), worker]);
  const sorted = [...versions].sort(([one], [other]) => other.localeCompare(one, "en", { numeric: true }));
  return html`<section class="block"><h2>Versions</h2>
    ${sorted.map(([version, there]) => html`<div class="version" key=${version}>
      <b>${version}</b><span class="soft">${many(there.length, "worker")}, ${Math.round((there.length / workers.length) * 100)} %</span>
      <span class="cells">${there.map((worker) => html`<a key=${worker.name} class=${`cell-worker s-${worker.status}`} href=${place({ view: "workers", name: worker.name })} title=${`${worker.name}: ${worker.status}`}><${Mark} state=${worker.status} />${worker.name}</a>`)}</span>
    </div>`)}
  </section>`;
}

export function Rollouts({ state: { workers, loaded } }) {
  const all = [...workers.values()].sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  const leaving = all.filter((worker) => worker.admission !== "open");
  const news = all.map((worker) => `${worker.name} ${worker.status} ${worker.incarnation} ${versionOf(worker)}`).join("\n");
  const answer = useAnswer(() => get("/fleet/changes"), [news]);
  if (loaded && !all.length) return html`<section class="view"><${Nothing}>No worker has registered.<//></section>`;
  return html`<section class="view">
    <p class="figures"><b>${count(all.length)}</b> ${plural(all.length, "worker")}, <b>${count(all.filter((worker) => ["available", "busy"].includes(worker.status)).length)}</b> take work, <b>${count(leaving.length)}</b> drained or draining</p>
    <${Versions} workers=${all} />
    <section class="block"><h2>Drained or draining</h2>
      ${leaving.length === 0 ? html`<${Nothing}>None.<//>` : html`<ul class="leaving">${leaving.map((worker) => html`<li key=${worker.name}><${State} state=${worker.status} /><${WorkerLink} name=${worker.name} />
        <span class="soft">${drainLine(worker)}${worker.tasks.length > 0 ? `; ${many(worker.tasks.length, "task")} left` : ""}</span></li>`)}</ul>`}
    </section>
    <section class="block"><h2>What changed</h2>
      <${Answer} answer=${answer}>${(told) => {
        const changes = told.filter((one) => one.at <= now());
        return changes.length === 0 ? html`<${Nothing}>Nothing.<//>` : html`<ol class="changes">${changes.slice(-SHOWN).reverse().map((one, n) => html`<li key=${changes.length - n}><span class="story-time">${clock(one.at)}</span><${WorkerLink} name=${one.worker} /><b>${one.what}</b><span class="soft">${one.why}</span></li>`)}</ol>`;
      }}<//>
    </section>
  </section>`;
}
