// Results: what tasks have left, the newest first, with its size and a way to all of it. They are
// asked for page by page, since the broker keeps them long after the stream has let the tasks go.

import { html, useLayoutEffect, useRef } from "../vendor/htm-preact.js";
import { get, segment } from "../api.js";
import { bytes, clock, count, span } from "../format.js";
import { onKeys } from "../keys.js";
import { Answer, Nothing, TaskLink, useAnswer, WorkerLink } from "../parts.js";
import { Table } from "../table.js";
import { go, here, place } from "../url.js";

const PAGE = 200; // of the tasks that succeeded

/** The address of a whole result. */
const whole = (id) => `/api/v1/tasks/${segment(id)}/result`;

const COLUMNS = [
  { id: "task", title: "Task", width: "minmax(180px, 1.7fr)", narrow: "minmax(0, 1fr)", cell: (view) => html`<${TaskLink} id=${view.id} task=${view} /> ${view.name && html`<span class="soft">${view.kind}</span>`}` },
  { id: "project", title: "Project", width: "110px", from: "wide", cell: (view) => html`<a class="quiet" href=${here({ project: view.project, before: "" })}>${view.project}</a>` },
  { id: "ended", title: "Ended", width: "150px", from: "mid", cell: (view) => clock(view.ended) },
  { id: "ran", title: "Ran", width: "90px", from: "mid", class: "number", cell: (view) => span((view.ended ?? 0) - (view.started ?? 0)) },
  { id: "worker", title: "Worker", width: "100px", from: "wide", cell: (view) => html`<${WorkerLink} name=${view.worker} />` },
  { id: "size", title: "Size", width: "90px", narrow: "76px", class: "number", cell: (view) => (view.result_bytes === null ? "" : bytes(view.result_bytes)) },
  { id: "whole", title: "", width: "80px", narrow: "56px", class: "number", cell: (view) => html`<a class="quiet" href=${whole(view.id)} target="_blank" rel="noopener" title="All of it, as JSON">open</a>` },
];

const Store = ({ store }) =>
  store && html`<span class="soft">kept on the broker's disk: ${bytes(store.tables + store.journal)} of tasks, ${bytes(store.blobs)} of large results, ${bytes(store.free)} free</span>`;

export function Results({ state: { broker }, where }) {
  const search = useRef(null);
  useLayoutEffect(() => onKeys({ "/": () => search.current?.focus() }), []);
  const asked = new URLSearchParams({ state: "succeeded", limit: PAGE });
  for (const name of ["kind", "project", "before"]) if (where[name]) asked.set(name, where[name]);
  const succeeded = broker?.tasks.succeeded ?? 0;
  const answer = useAnswer(() => get(`/tasks?${asked}`), [`${asked}`, where.before ? 0 : succeeded]);
  const text = (where.q ?? "").toLowerCase();
  const fits = (view) => !text || [view.name, view.kind, view.id, view.project, view.worker].some((word) => word.toLowerCase().includes(text));
  return html`<section class="view fill">
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input ref=${search} type="search" placeholder="Filter this page by name, kind, id, worker …" aria-label="Filter" value=${where.q ?? ""}
        onInput=${(event) => go(here({ q: event.target.value }), { replace: true })} />
      ${["kind", "project"].map((name) => where[name] && html`<a key=${name} class="pill" href=${here({ [name]: "", before: "" })} title="Take this filter away">${name} ${where[name]} ×</a>`)}
      <span class="soft found">${count(succeeded)} in all</span>
      <${Store} store=${broker?.store} />
    </form>
    <${Answer} answer=${answer}>${(views) => {
      const rows = views.filter(fits);
      if (!rows.length) return html`<${Nothing}>No result here. A task that succeeds leaves one: <code>corral task submit echo hello=world</code><//>`;
      return html`<${Table} label="Results" columns=${COLUMNS} rows=${rows} id=${(view) => view.id} onOpen=${(view) => go(place({ view: "task", id: view.id }))} />
        <p class="pages">${where.before && html`<a class="act" href=${here({ before: "" })}>Newest</a>`}
          ${views.length === PAGE && html`<a class="act" href=${here({ before: views.at(-1).id })}>Older</a>`}</p>`;
    }}<//>
  </section>`;
}
