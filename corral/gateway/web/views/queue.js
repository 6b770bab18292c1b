// The queue: tasks by state, with the reason why each one waits and what would let it run. It shows
// the window that the gateway streams; the counts above it are of all tasks.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";
import { ask, bulkAction, Buttons, first, may, taskActions } from "../actions.js";
import { now, pinned } from "../api.js";
import { count, span } from "../format.js";
import { onKeys } from "../keys.js";
import { metricsLine, Nothing, Progress, Spark, TaskLink, WorkerLink } from "../parts.js";
import { GROUPS, LIVE, LOST, Mark, MEANING, State, STATES } from "../states.js";
import { Table } from "../table.js";
import { go, here, place } from "../url.js";
import { cureLine, onVerdict, reasonWord, verdict, want } from "../verdicts.js";

const WAITS = new Set(["waiting", "queued", "retrying"]);
const WORDS = { live: "unfinished", ended: "ended", lost: "without success", all: "all" };
const ENDED = new Set(GROUPS.ended);

/** Since when it is as it is, or how long it ran. */
const seconds = (row) => {
  if (ENDED.has(row.state)) return row.started && row.ended ? row.ended - row.started : 0;
  return now() - (row.state === "running" ? row.started : row.submitted);
};

const SORTS = {
  state: (row) => STATES.indexOf(row.state),
  task: (row) => row.name || row.kind,
  project: (row) => row.project,
  priority: (row) => row.priority,
  worker: (row) => row.worker,
  time: seconds,
};

/** Running first, then as the queue goes; what has ended, newest first. */
function usual(one, other) {
  const rank = (row) => (ENDED.has(row.state) ? 2 : row.state === "running" ? 0 : 1);
  return rank(one) - rank(other)
    || (rank(one) === 2 ? other.ended - one.ended : other.priority - one.priority || one.submitted - other.submitted)
    || byName(one, other);
}

/** What was submitted at once has names in an order more often than not. */
const byName = (one, other) => (one.name === other.name ? (one.id < other.id ? -1 : 1) : one.name < other.name ? -1 : 1);

function chosen(tasks, where) {
  const states = new Set(GROUPS[where.state ?? "live"] ?? [where.state]);
  const text = (where.q ?? "").toLowerCase();
  const rows = [];
  for (const row of tasks.values()) {
    if (!states.has(row.state)) continue;
    if (where.kind && row.kind !== where.kind) continue;
    if (where.project && row.project !== where.project) continue;
    if (where.worker && row.worker !== where.worker) continue;
    if (text && ![row.name, row.kind, row.id, row.project, row.worker, row.why].some((word) => word.toLowerCase().includes(text))) continue;
    rows.push(row);
  }
  const by = SORTS[(where.sort ?? "").replace(/^-/, "")];
  if (!by) return rows.sort(usual);
  const way = where.sort.startsWith("-") ? -1 : 1;
  return rows.sort((one, other) => {
    const [a, b] = [by(one), by(other)];
    return (a < b ? -way : a > b ? way : 0) || byName(one, other);
  });
}

function Verdict({ row }) {
  const told = verdict(row);
  if (!told) return html`<span class="verdict soft">…</span>`;
  const cure = cureLine(told);
  const whole = [told.summary, ...(told.reasons ?? []), cure && `It would run with: ${cure}`].filter(Boolean).join("\n");
  return html`<a class="verdict" href=${place({ view: "task", id: row.id })} title=${whole}>
    <span class=${told.blocked ? "chip blocked" : "chip"}>${reasonWord(told)}</span>
    ${cure && html`<span class="cure">${cure}</span>`}
  </a>`;
}

function Detail({ row, sparks }) {
  if (WAITS.has(row.state)) return pinned() ? null : html`<${Verdict} row=${row} />`;
  if (row.state === "running")
    return html`<span class="runs"><${Progress} value=${row.progress} /><${Spark} values=${sparks.get(row.id)} /><span class="soft">${metricsLine(row.metrics)}</span></span>`;
  return html`<span class="soft" title=${row.why}>${row.why}</span>`;
}

/** Those that no task has anything for are left out, whatever is chosen: their room is the reason's. */
const columns = (sparks, some) => [
  { id: "state", title: "State", width: "100px", narrow: "26px", sort: true, class: "c-state", cell: (row) => html`<${State} state=${row.state} />` },
  {
    id: "task", title: "Task", width: "minmax(180px, 1.7fr)", narrow: "minmax(0, 1fr)", sort: true,
    cell: (row) => html`<${TaskLink} id=${row.id} task=${row} />${row.name && html` <span class="soft">${row.kind}</span>`}`,
  },
  some("project") && { id: "project", title: "Project", width: "92px", from: "wide", sort: true, cell: (row) => html`<a class="quiet" href=${here({ project: row.project })}>${row.project}</a>` },
  some("priority") && { id: "priority", title: "Priority", width: "60px", from: "wide", sort: true, class: "number", cell: (row) => row.priority || "" },
  some("worker") && { id: "worker", title: "Worker", width: "84px", from: "mid", sort: true, cell: (row) => html`<${WorkerLink} name=${row.worker} />` },
  { id: "time", title: "Time", width: "88px", narrow: "78px", sort: true, class: "number", cell: (row) => span(seconds(row)) },
  { id: "detail", title: "Why, and what would let it run", width: "minmax(240px, 3.4fr)", under: true, cell: (row) => html`<${Detail} row=${row} sparks=${sparks} />` },
  may("client") && { id: "act", title: "", width: "78px", from: "mid", class: "acts", cell: (row) => html`<${Buttons} actions=${taskActions(row)} />` },
].filter(Boolean);

function States({ broker, where }) {
  const state = where.state ?? "live";
  const counts = broker?.tasks ?? {};
  const button = (name, n, label, meaning) => html`<a key=${name} class=${`tally s-${name}`} title=${meaning} aria-current=${name === state ? "true" : "false"}
    href=${here({ state: name === "live" ? "" : name })}>${STATES.includes(name) && html`<${Mark} state=${name} />`}<b>${count(n)}</b> ${label}</a>`;
  const sum = (names) => names.reduce((n, name) => n + (counts[name] ?? 0), 0);
  return html`<nav class="tallies" aria-label="Tasks by state">
    ${["live", "lost", "all"].map((name) => button(name, sum(GROUPS[name]), WORDS[name], name === "all" ? "every task" : `all that are ${WORDS[name]}`))}
    <span class="bar" />
    ${STATES.map((name) => button(name, counts[name] ?? 0, name, MEANING[name]))}
  </nav>`;
}

function Choice({ name, label, values, value }) {
  const listed = value && !values.includes(value) ? [value, ...values] : values;
  return html`<label class="choice"><span class="soft">${label}</span>
    <select value=${value ?? ""} onChange=${(event) => go(here({ [name]: event.target.value }))}>
      <option value="">any</option>${listed.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}
    </select></label>`;
}

/** Bulk actions match state, kind and project; with anything else chosen they would match more. */
function bulk(where) {
  const state = where.state ?? "live";
  if (!may("client") || where.q || where.worker) return [];
  const filter = { kind: where.kind ?? "", project: where.project ?? "", ...(STATES.includes(state) ? { state } : {}) };
  if (!filter.state && !filter.kind && !filter.project) return [];
  const fits = (states) => (state in GROUPS ? GROUPS[state] === states : states.includes(state));
  return [...(fits(LIVE) ? [bulkAction("Cancel", filter)] : []), ...(fits(LOST) ? [bulkAction("Retry", filter)] : [])];
}

export function Queue({ state: { tasks, broker, sparks, loaded }, where }) {
  const [, redraw] = useState(0);
  const search = useRef(null);
  useEffect(() => onVerdict(() => redraw((n) => n + 1)), []);
  useLayoutEffect(() => onKeys({ "/": () => search.current?.focus() }), []);
  const rows = chosen(tasks, where);
  const some = (name) => [...tasks.values()].some((row) => row[name]);
  const distinct = (name) => [...new Set([...tasks.values()].map((row) => row[name]).filter(Boolean))].sort();
  return html`<section class="view fill">
    <${States} broker=${broker} where=${where} />
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input ref=${search} type="search" placeholder="Filter by name, id, worker, error …" aria-label="Filter" value=${where.q ?? ""}
        onInput=${(event) => go(here({ q: event.target.value }), { replace: true })} />
      <${Choice} name="kind" label="kind" values=${distinct("kind")} value=${where.kind} />
      <${Choice} name="project" label="project" values=${distinct("project")} value=${where.project} />
      ${where.worker && html`<a class="pill" href=${here({ worker: "" })} title="Take this filter away">on ${where.worker} ×</a>`}
      <span class="soft found">${count(rows.length)} shown</span>
      <${Buttons} actions=${bulk(where)} />
    </form>
    ${loaded && !rows.length
      ? html`<${Nothing}>Nothing here. <code>corral task submit echo hello=world</code> makes the smallest task there is.<//>`
      : html`<${Table} label="Tasks" columns=${columns(sparks, some)} rows=${rows} id=${(row) => row.id} sort=${where.sort ?? ""}
          onSort=${(sort) => go(here({ sort }), { replace: true })} onOpen=${(row) => go(place({ view: "task", id: row.id }))}
          onSeen=${(seen) => pinned() || want(seen.filter((row) => WAITS.has(row.state)))}
          keys=${{ x: (row) => ask(first(taskActions(row), "Cancel")), r: (row) => ask(first(taskActions(row), "Retry")) }} />`}
  </section>`;
}
