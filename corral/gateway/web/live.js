// What is: tasks, workers and the broker, kept current by one event stream. It says since when it is
// stale, connects again by itself, and can be held still. How it is drawn is the views' matter.

import { get, present } from "./api.js";

const AGAIN = 1500; // ms after which a stream that was refused is opened anew
const SPARK = 40; // newest figures of a running task that a row draws
const ROW = Object.freeze({
  kind: "", state: "queued", name: "", project: "", priority: 0, worker: "", progress: null,
  metrics: {}, submitted: 0, started: null, ended: null, why: "", gpus: [],
});

const current = {
  tasks: new Map(), // id -> row; a row is replaced, never changed
  workers: new Map(),
  broker: null,
  expected: null, // names of the workers that ought to be there; null: nobody has said
  link: null, // whether the gateway hears the broker
  sparks: new Map(), // id -> the newest values of its first metric
  loaded: false,
  connected: false,
  lost: null, // since when the gateway is not heard
  revision: 0,
};
let held = null; // what is shown while it is held still
let drawing = 0;
const listeners = new Set();

/** What is to be shown. */
export const shown = () => held ?? current;

/** Whether it is held still, and how many changes came meanwhile. */
export const pause = () => (held ? { changes: current.revision - held.revision } : null);

/** Hold it still, or go on. */
export function toggle() {
  held = held ? null : { ...current, tasks: new Map(current.tasks), workers: new Map(current.workers), sparks: new Map(current.sparks) };
  draw();
}

/** Since when what is shown may be wrong, and who is not heard; null while it is current. */
export function stale() {
  if (!current.connected) return { since: current.lost, who: "gateway" };
  if (current.link && !current.link.up) return { since: current.link.since, who: "broker" };
  return null;
}

/** Be told, at most once a frame, that there is something new to draw. */
export function onNews(tell) {
  listeners.add(tell);
  return () => listeners.delete(tell);
}

function draw() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    for (const tell of listeners) tell();
  });
}

/** Begin to follow. */
export function follow() {
  current.lost = present();
  connect();
}

function connect() {
  const source = new EventSource("/api/v1/stream");
  source.onopen = () => {
    current.connected = true;
    current.lost = null;
    draw();
  };
  source.addEventListener("snapshot", (event) => {
    current.tasks.clear();
    current.workers.clear();
    current.expected = null;
    fold(JSON.parse(event.data));
    current.loaded = true;
  });
  source.addEventListener("delta", (event) => fold(JSON.parse(event.data)));
  source.onerror = () => {
    if (current.connected || current.lost === null) current.lost = present();
    current.connected = false;
    draw();
    if (source.readyState !== EventSource.CLOSED) return; // the browser connects again
    source.close();
    get("/me").catch(() => {}); // one who must sign in again is asked to
    setTimeout(connect, AGAIN);
  };
}

function fold(frame) {
  for (const row of frame.tasks ?? []) {
    const task = rowOf(row);
    current.tasks.set(row.id, task);
    spark(task);
  }
  for (const id of frame.gone ?? []) {
    current.tasks.delete(id);
    current.sparks.delete(id);
  }
  for (const worker of frame.workers ?? []) current.workers.set(worker.name, worker);
  for (const name of frame.workers_gone ?? []) current.workers.delete(name);
  if (frame.broker) current.broker = frame.broker;
  if (frame.expected) current.expected = frame.expected;
  if (frame.link) current.link = frame.link;
  current.revision += (frame.tasks?.length ?? 0) + (frame.gone?.length ?? 0) + (frame.workers?.length ?? 0);
  draw();
}

/** A row with all its fields; those that have their default do not travel. */
export const rowOf = (row) => ({ ...ROW, ...row });

function spark(task) {
  if (task.state !== "running") return void current.sparks.delete(task.id);
  const value = Object.values(task.metrics)[0];
  if (value === undefined) return;
  const known = current.sparks.get(task.id) ?? [];
  current.sparks.set(task.id, [...known.slice(1 - SPARK), value]);
}
