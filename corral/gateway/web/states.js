// The states of tasks and workers as people see them: a colour and a shape for each, never the
// colour alone. Which states there are and how they follow each other is in corral/tasks.py.

import { html } from "./vendor/htm-preact.js";

export const LIVE = ["waiting", "queued", "running", "retrying"];
export const LOST = ["failed", "cancelled", "aborted", "expired"];
export const STATES = [...LIVE, "succeeded", ...LOST];

/** What a group of states is called in the URL. */
export const GROUPS = { live: LIVE, lost: LOST, ended: ["succeeded", ...LOST], all: STATES };

export const MEANING = {
  waiting: "some parent has not succeeded yet",
  queued: "starts as soon as a worker fits",
  running: "an attempt runs on a worker",
  retrying: "an attempt failed; the next is due later",
  succeeded: "its result is recorded",
  failed: "it ended with an error, and no attempt is left",
  cancelled: "somebody ended it for good",
  aborted: "a parent did not succeed",
  expired: "it waited longer than it may",
};

const SHAPES = {
  waiting: "M6 2.2v4l2.6 1.6M11 6A5 5 0 1 1 1 6a5 5 0 0 1 10 0",
  queued: "M10.5 6a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0",
  running: "M3.2 1.8v8.4L10.4 6z",
  retrying: "M10.2 4.2A4.6 4.6 0 1 0 10.6 6.6M10.6 1.6v2.9H7.7",
  succeeded: "M1.6 6.4l3 3 5.8-6.6",
  failed: "M2.2 2.2l7.6 7.6M9.8 2.2L2.2 9.8",
  cancelled: "M1.5 6h9",
  aborted: "M10.5 6a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0M2.8 9.2l6.4-6.4",
  expired: "M2.5 1.5h7L2.5 10.5h7z",
  // workers
  available: "M10.5 6a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0",
  busy: "M3.2 1.8v8.4L10.4 6z",
  suspect: "M6 1.5v5.5M6 9.6v.4",
  unavailable: "M2.2 2.2l7.6 7.6M9.8 2.2L2.2 9.8",
  gone: "M1.5 6h9",
  draining: "M6 1.5v7M2.8 5.8L6 9.2l3.2-3.4",
  drained: "M2 10.2h8M6 1.5v6M3.4 5L6 7.7 8.6 5",
};

/** The mark of a state. */
export function Mark({ state }) {
  return html`<svg class="mark s-${state}" viewBox="0 0 12 12" aria-hidden="true"><path d=${SHAPES[state] ?? SHAPES.queued} /></svg>`;
}

/** A state with its word. */
export function State({ state }) {
  return html`<span class="state s-${state}" title=${MEANING[state] ?? ""}><${Mark} state=${state} />${state}</span>`;
}
