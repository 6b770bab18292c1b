// The page around the views: its head, the ways between views, whether what is shown is current,
// and the keys that mean the same everywhere. Each view has a file of its own.

import { html, render, useErrorBoundary, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { Dialog, iAm, who } from "./actions.js";
import { get, present } from "./api.js";
import { clock, count, many } from "./format.js";
import { HELP, onKeys } from "./keys.js";
import { follow, onNews, pause, shown, stale, toggle } from "./live.js";
import { Notices, notify } from "./parts.js";
import { HAVE_PAST, TimeLine, usePast } from "./past.js";
import { go, here, onMove, params, place } from "./url.js";
import { Failures } from "./views/failures.js";
import { Fleet } from "./views/fleet.js";
import { Load } from "./views/load.js";
import { Pipelines } from "./views/pipelines.js";
import { Queue } from "./views/queue.js";
import { Results } from "./views/results.js";
import { Rollouts } from "./views/rollouts.js";
import { Task } from "./views/task.js";
import { Workers } from "./views/workers.js";

const BEAT = 1000; // ms after which times are drawn anew, though nothing happened
const VIEWS = { fleet: Fleet, queue: Queue, pipelines: Pipelines, failures: Failures, results: Results, workers: Workers, rollouts: Rollouts, load: Load, task: Task };
const WAYS = { fleet: "Fleet", queue: "Queue", pipelines: "Pipelines", failures: "Failures", results: "Results", workers: "Workers", rollouts: "Roll-outs", load: "Load" };
const FIRST = "fleet";

function Link() {
  const held = pause();
  const lost = stale();
  if (lost)
    return html`<span class="link lost" role="status" title=${`The ${lost.who} is not heard; it is tried again.`}>stale since ${clock(lost.since)}<span class="soft"> · no ${lost.who}</span></span>`;
  if (held)
    return html`<button type="button" class="link held" onClick=${toggle} title="Go on (p)">paused<span class="soft"> · ${many(held.changes, "change")} since</span></button>`;
  return html`<button type="button" class="link live" onClick=${toggle} title="Pause (p)"><i />live</button>`;
}

function Help({ close }) {
  const box = useRef(null);
  useLayoutEffect(() => box.current.showModal(), []);
  return html`<dialog ref=${box} onClose=${close} aria-labelledby="help">
    <h2 id="help">Keys</h2>
    <dl class="keys">${HELP.map(([key, does]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${does}</dd></div>`)}</dl>
    <p class="soft">Corral ${who().version}. A link to what you see is in the address bar.</p>
    <div class="dialog-end"><button type="button" class="act full" onClick=${() => box.current.close()}>Close</button></div>
  </dialog>`;
}

function Ways({ view, failed }) {
  const nav = useRef(null);
  const mine = view === "task" ? "queue" : view;
  useLayoutEffect(() => void nav.current.querySelector("[aria-current=page]").scrollIntoView({ block: "nearest", inline: "center" }), [mine]);
  return html`<nav class="ways" aria-label="Views" ref=${nav}>
    ${Object.entries(WAYS).map(([name, label]) => html`<a key=${name} href=${place({ view: name })} aria-current=${name === mine ? "page" : "false"}>
      ${label}${name === "failures" && failed > 0 && html`<span class="badge">${count(failed)}</span>`}</a>`)}
  </nav>`;
}

/** A defect of one view is told in its place, and the rest of the page stays. */
function Safe({ view: View, state, where }) {
  const [error] = useErrorBoundary((caught) => console.error(caught));
  if (error) return html`<section class="view"><p class="trouble" role="alert">This view met an error of its own: ${String(error)}</p></section>`;
  return html`<${View} state=${state} where=${where} />`;
}

function App() {
  const [, redraw] = useState(0);
  const [help, setHelp] = useState(false);
  const where = params();
  const view = where.view in VIEWS ? where.view : FIRST;
  const live = shown();
  const at = HAVE_PAST.has(view) && Number(where.at) > 0 ? Number(where.at) : null;
  const past = usePast(at, live);
  const state = past.state ?? live;
  const me = who();

  useLayoutEffect(() => {
    const again = () => redraw((n) => n + 1);
    const beat = setInterval(() => pause() || again(), BEAT);
    const ends = [onNews(again), onMove(again), () => clearInterval(beat)];
    get("/me").then((told) => (iAm(told), again()), (error) => notify(error.message, true));
    return () => ends.forEach((end) => end());
  }, []);
  useLayoutEffect(() => {
    const ways = Object.keys(WAYS).map((name, n) => [String(n + 1), () => go(place({ view: name }))]);
    return onKeys({ ...Object.fromEntries(ways), "?": () => setHelp(true), p: toggle, Backspace: () => history.back() });
  }, []);
  const waits = (state.broker?.tasks.queued ?? 0) + (state.broker?.tasks.waiting ?? 0);
  document.title = `${stale() ? "stale: " : ""}${view === "task" ? "Task" : WAYS[view]} · Corral`;

  return html`
    <header class="top">
      <a class="brand" href=${place({ view: FIRST })}><svg viewBox="0 0 32 32" aria-hidden="true"><path d="M8 7v18M16 5v22M24 7v18M4 13h24M4 20h24" /></svg>Corral</a>
      <span class="now soft">${state.broker && html`<b>${count(state.broker.tasks.running ?? 0)}</b> run, <b>${count(waits)}</b> wait`}</span>
      ${me.history && HAVE_PAST.has(view) && at === null && html`<a class="quiet-button" href=${here({ at: Math.floor(present()) - 60 })} title="Look at a past moment">Past</a>`}
      <${Link} />
      <button type="button" class="round" title="Keys (?)" aria-label="Keys" onClick=${() => setHelp(true)}>?</button>
      ${me.name && html`<span class="me" title=${`What you may do: ${me.role}`}>${me.signed_in ? `${me.name}, ${me.role}` : me.role}</span>`}
      ${me.signed_in && html`<form method="post" action="/sign-out"><button class="quiet-button">Sign out</button></form>`}
    </header>
    <${Ways} view=${view} failed=${state.broker?.tasks.failed ?? 0} />
    <main class=${stale() && at === null ? "stale" : ""} id="view">
      ${at !== null && html`<${TimeLine} at=${at} oldest=${past.oldest} error=${past.error} />`}
      ${state.loaded ? html`<${Safe} key=${view} view=${VIEWS[view]} state=${state} where=${where} />` : html`<p class="boot">Waiting for the gateway …</p>`}
    </main>
    <${Dialog} /><${Notices} />
    ${help && html`<${Help} close=${() => setHelp(false)} />`}`;
}

const root = document.getElementById("app");
root.textContent = "";
follow();
render(html`<${App} />`, root);
