// The past: what the page shows of the moment that the address names (`at`), as the gateway has kept
// it, and the line of time to choose one. What is now comes by `live.js`.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { get, pin, present } from "./api.js";
import { clock } from "./format.js";
import { rowOf } from "./live.js";
import { go, here } from "./url.js";

const REST = 120; // ms that the line of time rests before the moment is asked for
const STEP = 60; // seconds of a step by a button

/** Views that can show a past moment; of the others the past is a part anyhow. */
export const HAVE_PAST = new Set(["fleet", "queue", "pipelines", "failures", "workers", "rollouts"]);

const tally = (things, name) => {
  const counts = {};
  for (const thing of things) counts[thing[name]] = (counts[thing[name]] ?? 0) + 1;
  return counts;
};

/** What is to be shown of a moment: {state, oldest, error}; without a moment nothing. */
export function usePast(at, live) {
  const [past, setPast] = useState({});
  const wanted = useRef(null);
  pin(at);
  useEffect(() => {
    wanted.current = at;
    if (at === null) return setPast({});
    get(`/past?at=${at}`).then(
      (told) => wanted.current === at && setPast({ told }),
      (error) => wanted.current === at && setPast({ error }),
    );
  }, [at]);
  if (at === null || !past.told) return { error: at === null ? undefined : past.error };
  const { told } = past;
  const broker = live.broker && { ...live.broker, tasks: told.counts, workers: tally(told.workers, "status") };
  const state = {
    tasks: new Map(told.tasks.map((row) => [row.id, rowOf(row)])),
    workers: new Map(told.workers.map((worker) => [worker.name, worker])),
    broker, sparks: new Map(), loaded: true, at: told.at,
  };
  return { state, oldest: told.oldest };
}

/** Where in time the page is, and the way to elsewhere. */
export function TimeLine({ at, oldest, error }) {
  const [hand, setHand] = useState(null);
  const timer = useRef(0);
  const end = Math.floor(present());
  const begin = Math.floor(Math.min(oldest ?? at - 3600, at));
  const move = (to, rest = 0) => {
    const next = Math.max(begin, Math.min(end, Math.round(to)));
    setHand(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => (setHand(null), go(here({ at: next }), { replace: true })), rest);
  };
  const shown = hand ?? at;
  return html`<div class="time-line" role="group" aria-label="A past moment">
    <b>as of ${clock(shown)}</b>
    <button type="button" class="act" onClick=${() => move(shown - STEP)} title="A minute earlier">−1 min</button>
    <input type="range" aria-label="Moment" min=${begin} max=${end} step="1" value=${shown} onInput=${(event) => move(Number(event.target.value), REST)} />
    <button type="button" class="act" onClick=${() => move(shown + STEP)} title="A minute later">+1 min</button>
    <a class="act" href=${here({ at: "" })}>Back to now</a>
    ${error ? html`<span class="trouble">${error.message} ${error.next}</span>` : oldest && html`<span class="soft">kept since ${clock(oldest)}</span>`}
  </div>`;
}
