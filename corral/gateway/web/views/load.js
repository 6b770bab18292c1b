// The load: how deep the queue was over time, and the broker's own figures.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { get } from "../api.js";
import { Chart } from "../chart.js";
import { bytes, clock, count } from "../format.js";
import { Nothing, useAnswer } from "../parts.js";
import { LIVE } from "../states.js";

const LOOK = 2000; // ms
const DISK = { journal: "journal on disk", tables: "tables on disk", blobs: "large results on disk", free: "free on that disk" };

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

export function Load({ state: { broker } }) {
  const [tick, setTick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => setTick((n) => n + 1), LOOK);
    return () => clearInterval(timer);
  }, []);
  const { value: points = [] } = useAnswer(() => get("/broker/depth"), [tick]);
  const depth = points.map(({ at, tasks }) => ({ at, values: Object.fromEntries(LIVE.map((state) => [state, tasks[state] ?? 0])) }));
  const fleet = points.map(({ at, workers }) => ({ at, values: { "take work": (workers.available ?? 0) + (workers.busy ?? 0), busy: workers.busy ?? 0, "not there": (workers.unavailable ?? 0) + (workers.gone ?? 0) } }));
  if (!broker) return html`<section class="view"><${Nothing}>Nothing is known of the broker yet.<//></section>`;
  const refused = Object.entries(broker.refused);
  return html`<section class="view">
    <section class="block"><h2>Tasks</h2><${Chart} label="Tasks by state" points=${depth} names=${LIVE} /></section>
    <section class="block"><h2>Workers</h2><${Chart} label="Workers" points=${fleet} names=${["take work", "busy", "not there"]} /></section>
    <section class="block"><h2>Broker</h2>
      <dl class="facts">
        <${Fact} name="version">${broker.version}<//><${Fact} name="at">${broker.endpoint}<//><${Fact} name="runs since">${clock(broker.started)}<//>
        <${Fact} name="changes on disk">${count(broker.seq)}<//><${Fact} name="memory">${bytes(broker.rss_bytes)}<//>
        <${Fact} name="store">${broker.store_full ? "full: new work is refused" : broker.data}<//>
        ${broker.store && ["journal", "tables", "blobs", "free"].map((name) => html`<${Fact} key=${name} name=${DISK[name]}>${bytes(broker.store[name])}<//>`)}
        ${Object.entries(broker.named).map(([name, [used, all]]) => html`<${Fact} key=${name} name=${name}>${used} of ${all} in use<//>`)}
      </dl>
      ${broker.kinds.length > 0 && html`<div class="scroll"><table class="plain"><thead><tr><th>Kind</th><th>Workers</th><th>Code</th><th>Data</th><th>Known by</th></tr></thead>
        <tbody>${broker.kinds.map((kind) => html`<tr key=${kind.kind}><td>${kind.kind}</td><td>${kind.workers}</td><td><code>${kind.code_version}</code></td><td><code>${kind.data_snapshot}</code></td><td>${kind.content ? "its content" : "its id"}</td></tr>`)}</tbody></table></div>`}
      ${refused.length > 0 && html`<h2>Refused</h2><dl class="facts">${refused.map(([why, n]) => html`<${Fact} key=${why} name=${why}>${count(n)}<//>`)}</dl>`}
    </section>
  </section>`;
}
