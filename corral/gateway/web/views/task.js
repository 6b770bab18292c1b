// One task: why it does not run, every step with its cause, attempts, progress and curves, what it was
// asked and what it returned. Its log is `log.js`'s.

import { html, useEffect, useLayoutEffect, useState } from "../vendor/htm-preact.js";
import { ask, Buttons, first, taskActions } from "../actions.js";
import { get, now, segment } from "../api.js";
import { Chart } from "../chart.js";
import { bytes, clock, command, gib, many, short, span, title } from "../format.js";
import { onKeys } from "../keys.js";
import { Answer, Nothing, notify, copyText, Progress, TaskLink, Twin, useAnswer, WorkerLink } from "../parts.js";
import { GROUPS, LIVE, Mark, State } from "../states.js";
import { here, place } from "../url.js";
import { cureLine } from "../verdicts.js";
import { Log } from "./log.js";

const LOOK = 3000; // ms between looks at why it waits, and at its curve
const SHOWN = 20_000; // characters of a result

function useTicks(every, on) {
  const [tick, setTick] = useState(0);
  useEffect(() => {
    if (!on) return undefined;
    const timer = setInterval(() => setTick((n) => n + 1), every);
    return () => clearInterval(timer);
  }, [every, on]);
  return tick;
}

const Verdicts = ({ one }) => html`<tr class=${one.fits ? "fits" : ""}>
  <th scope="row"><${WorkerLink} name=${one.worker} /></th><td>${one.variant + 1}</td>
  <td>${one.verdicts.map((v) => html`<span class=${v.met ? "need met" : "need unmet"}><${Mark} state=${v.met ? "succeeded" : "failed"} />${v.need}: ${v.met ? v.has : `wants ${v.wanted}, has ${v.has}`}</span>`)}</td>
</tr>`;

function Explain({ id, state, tick }) {
  const answer = useAnswer(() => get(`/tasks/${segment(id)}/explain`), [id, state, tick]);
  return html`<section class="block why">
    <h2>${LIVE.includes(state) && state !== "running" ? "Why it does not run" : "Why"}</h2>
    <${Answer} answer=${answer}>${(told) => html`
      <p class="summary">${told.summary}</p>
      ${told.decision && html`<p>${told.decision}</p>`}
      ${told.blocked && html`<p class="trouble">${told.blocked}</p>`}
      ${told.reasons.length > 0 && html`<ul>${told.reasons.filter((reason) => reason !== told.blocked).map((reason) => html`<li>${reason}</li>`)}</ul>`}
      ${told.cure.length > 0 && html`<p class="cure-whole"><b>It would run with:</b> ${cureLine(told)}</p>`}
      ${told.workers.length > 0 && html`<details open=${told.workers.length <= 4}><summary>Worker by worker</summary>
        <div class="scroll"><table class="plain"><thead><tr><th>Worker</th><th>Variant</th><th>Needs</th></tr></thead>
        <tbody>${told.workers.map((one) => html`<${Verdicts} one=${one} />`)}</tbody></table></div></details>`}`}<//>
  </section>`;
}

function Story({ steps }) {
  return html`<section class="block">
    <h2>What happened</h2>
    <ol class="story">${steps.map(({ at, state, cause, why, worker, attempt }, n) => html`<li key=${n}>
      <span class="story-time" title=${clock(at)}>${n ? `+ ${span(at - steps[0].at)}` : clock(at)}</span>
      <${State} state=${state} />
      <span><b>${cause.replaceAll("_", " ")}</b> ${worker && html`on <${WorkerLink} name=${worker} />`} ${attempt > 0 && html`<span class="soft">attempt ${attempt}</span>`}
        ${why && html`<span class="soft story-why">${why}</span>`}</span>
    </li>`)}</ol>
  </section>`;
}

function Attempts({ view, attempt }) {
  return html`<section class="block">
    <h2>Attempts</h2>
    <div class="scroll"><table class="plain"><thead><tr><th>#</th><th>Worker</th><th>Began</th><th>Ran</th><th>Outcome</th><th>GPUs</th><th>Why there</th></tr></thead>
    <tbody>${view.attempts.map((one) => html`<tr key=${one.number} class=${one.number === attempt ? "chosen" : ""}>
      <td><a href=${here({ attempt: one.number })} title="its log">${one.number}</a></td><td><${WorkerLink} name=${one.worker} /></td>
      <td>${clock(one.started)}</td><td>${span((one.ended ?? now()) - one.started)}</td><td>${one.outcome || "runs"}</td>
      <td>${one.gpus.map(short).join(" ")}</td><td class="soft">${one.decision}</td></tr>`)}</tbody></table></div>
  </section>`;
}

function Curves({ id, tick }) {
  const { value: points = [] } = useAnswer(() => get(`/tasks/${segment(id)}/curve`), [id, tick]);
  if (points.length < 2) return null;
  const names = [...new Set(points.flatMap((point) => Object.keys(point.metrics ?? {})))];
  const metrics = points.map(({ at, metrics = {} }) => ({ at, values: metrics }));
  const progress = points.map(({ at, progress }) => ({ at, values: { "progress %": (progress ?? 0) * 100 } }));
  return html`<section class="block">
    <h2>Over time</h2>
    <div class="charts">
      ${names.length > 0 && html`<${Chart} label=${`Metrics: ${names.join(", ")}`} points=${metrics} names=${names} />`}
      <${Chart} label="Progress" points=${progress} names=${["progress %"]} />
    </div>
  </section>`;
}

const json = (value) => JSON.stringify(value, null, 2) ?? "null";

function Result({ id }) {
  const answer = useAnswer(() => get(`/tasks/${segment(id)}/result`), [id]);
  return html`<section class="block">
    <h2>Result <a class="quiet end" href=${`/api/v1/tasks/${segment(id)}/result`} target="_blank" rel="noopener">all of it</a></h2>
    <${Answer} answer=${answer}>${({ value }) => {
      const text = json(value);
      return html`<pre class="json">${text.slice(0, SHOWN)}${text.length > SHOWN && " …"}</pre>`;
    }}<//>
  </section>`;
}

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

const needs = ({ cpus, memory_gb: memory, gpus, gpu_memory_gb: gpuMemory, named, labels }) =>
  [
    gpus && `${many(gpus, "GPU")}${gpuMemory ? ` of ${gib(gpuMemory)}` : ""}`, cpus && many(cpus, "core"), memory && gib(memory),
    ...Object.entries(named).map(([name, n]) => `${n} ${name}`), ...Object.entries(labels).map(([name, value]) => `${name}=${value}`),
  ].filter(Boolean).join(", ") || "nothing";

function Facts({ view, tasks }) {
  return html`<dl class="facts">
    <${Fact} name="id"><button type="button" class="copy" title="Copy" onClick=${async () => (await copyText(view.id)) && notify("the id is copied")}><code>${view.id}</code></button><//>
    <${Fact} name="kind">${view.kind}<//>
    ${view.project && html`<${Fact} name="project"><a href=${place({ view: "pipelines", project: view.project })}>${view.project}</a><//>`}
    <${Fact} name="submitted">${clock(view.submitted)}<//>
    ${view.started && html`<${Fact} name=${view.ended ? "ran" : "runs for"}>${span((view.ended ?? now()) - view.started)}<//>`}
    ${view.worker && html`<${Fact} name="worker"><${WorkerLink} name=${view.worker} /><//>`}
    <${Fact} name="needs">${view.needs.map(needs).join(", or ") || "what the kind announces"}<//>
    ${view.priority !== 0 && html`<${Fact} name="priority">${view.priority}<//>`}
    ${view.run > 1 && html`<${Fact} name="run">${view.run}<//>`}
    ${view.result_bytes !== null && html`<${Fact} name="result">${bytes(view.result_bytes)}<//>`}
    ${Object.entries(view.after).map(([name, id]) => html`<${Fact} key=${name} name=${`after ${name}`}><${TaskLink} id=${id} task=${tasks.get(id)} /><//>`)}
  </dl>`;
}

export function Task({ state: { tasks }, where }) {
  const id = where.id ?? "last";
  const row = tasks.get(id);
  const news = row ? `${row.state} ${row.started} ${row.ended} ${row.why}` : "";
  const answer = useAnswer(() => get(`/tasks/${segment(id)}`), [id, news]);
  const view = answer.value?.id === id || id === "last" || !row ? answer.value : undefined;
  const state = row?.state ?? view?.state;
  const over = GROUPS.ended.includes(state);
  const tick = useTicks(LOOK, !over);
  const actions = view ? taskActions({ ...view, state }) : [];
  useLayoutEffect(() => onKeys({ x: () => ask(first(actions, "Cancel")), r: () => ask(first(actions, "Retry")) }));
  if (!view) return html`<section class="view"><${Answer} answer=${answer}>${() => null}<//></section>`;
  const attempt = Number(where.attempt) || 0;
  return html`<section class="view task">
    <header class="task-head">
      <h1>${title(view)}</h1> <${State} state=${state} />
      ${state === "running" && html`<${Progress} value=${row?.progress ?? view.progress} />`}
      <span class="end"><${Buttons} actions=${actions} /></span>
    </header>
    <${Facts} view=${view} tasks=${tasks} />
    ${view.failure && html`<section class="block failure"><h2>${view.failure.type}</h2><p class="trouble">${view.failure.message}</p>
      ${view.failure.traceback && html`<details><summary>Traceback</summary><pre class="json">${view.failure.traceback}</pre></details>`}</section>`}
    ${state !== "succeeded" && html`<${Explain} id=${view.id} state=${state} tick=${tick} />`}
    <${Curves} id=${view.id} tick=${`${tick}${state}`} />
    <div class="two">
      <${Story} steps=${view.story} />
      <div>
        ${view.attempts.length > 0 && html`<${Attempts} view=${view} attempt=${attempt} />`}
        <section class="block"><h2>Params</h2><pre class="json">${json(view.params)}</pre></section>
        ${state === "succeeded" && html`<${Result} id=${view.id} />`}
      </div>
    </div>
    ${view.attempts.length > 0 ? html`<${Log} key=${`${view.id}${attempt}`} id=${view.id} attempt=${attempt} over=${over} />` : html`<section class="block"><h2>Log</h2><${Nothing}>It has not begun.<//></section>`}
    <section class="block twins"><h2>On the command line</h2>
      ${[["task", "show"], ["task", "explain"], ["task", "logs"], ["task", "result"]].map((words) => html`<${Twin} key=${words[1]} command=${command(...words, view.id)} />`)}
      ${actions.map((action) => html`<${Twin} key=${action.word} command=${action.twin("")} />`)}
    </section>
  </section>`;
}
