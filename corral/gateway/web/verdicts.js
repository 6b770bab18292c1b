// Why tasks wait, asked for the rows in sight alone: a few questions at a time, each answer kept for
// some seconds. The answer itself is the broker's (`GET /tasks/{id}/explain`).

import { get, segment } from "./api.js";

const FRESH = 5000; // ms that an answer is good for
const AT_ONCE = 3; // questions on their way
const KEPT = 400; // answers

const answers = new Map(); // id -> {at, state, told}
const asked = new Set();
let wanted = [];
const listeners = new Set();

/** These rows are in sight: find out about those that wait. */
export function want(rows) {
  wanted = rows.filter((row) => {
    const known = answers.get(row.id);
    return !asked.has(row.id) && !(known && known.state === row.state && Date.now() - known.at < FRESH);
  });
  next();
}

/** What is known of a row; it may be of some seconds ago. */
export function verdict(row) {
  const known = answers.get(row.id);
  return known && known.state === row.state ? known.told : undefined;
}

/** Be told when more is known. */
export function onVerdict(tell) {
  listeners.add(tell);
  return () => listeners.delete(tell);
}

function next() {
  while (asked.size < AT_ONCE && wanted.length) {
    const row = wanted.shift();
    asked.add(row.id);
    get(`/tasks/${segment(row.id)}/explain`)
      .catch((error) => ({ summary: error.message, cure: [], reasons: [] }))
      .then((told) => {
        answers.delete(row.id);
        answers.set(row.id, { at: Date.now(), state: row.state, told });
        if (answers.size > KEPT) answers.delete(answers.keys().next().value);
        asked.delete(row.id);
        for (const tell of listeners) tell();
        next();
      });
  }
}

const WORDS = {
  free: ({ need }) => `waits for ${NOUNS[need] ?? need}`,
  add: ({ need }) => (need === "memory_gb" ? "too little memory" : `too few ${need === "cpus" ? "cores" : need === "gpus" ? "GPUs" : need}`),
  resume: ({ subject }) => `${subject} is drained`,
  revive: ({ subject }) => `${subject} is away`,
  install: () => "no worker serves it",
  label: ({ need }) => `wants ${need.replace("label.", "")}`,
  named: ({ subject }) => `waits for ${subject}`,
  finish: () => "waits for its parents",
  ahead: () => "others go first",
  wait: ({ need }) => (need === "gpus" ? "waits for a GPU" : "backs off"),
  add_worker: () => "no worker fits",
};
const NOUNS = { slots: "a slot", cpus: "cores", memory_gb: "memory", gpus: "a GPU" };

const LASTING = new Set(["add", "add_worker", "install", "label"]); // no waiting brings these about

/** Why it waits, in a few words: what the first part of the cure is about, or the first that somebody must do. */
export const reasonWord = (told) => {
  const cure = told.cure ?? [];
  const part = cure.find(({ action }) => LASTING.has(action)) ?? cure[0];
  return part ? (WORDS[part.action]?.(part) ?? part.action) : told.summary;
};

/** What would let it run, in one line. */
export const cureLine = (told) => (told.cure ?? []).map((part) => part.text).join("; and ");
