// Small parts that several views share: links, a command to copy, progress, sparks, notices, and
// hooks. What a state looks like is in `states.js`, tables and charts have files of their own.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { figure, short, title } from "./format.js";
import { place } from "./url.js";

/** A link to a task, by its name; all of it is told where there is no room for it. */
export function TaskLink({ id, task }) {
  const called = task ? title(task) : short(id);
  return html`<a class="task-link" href=${place({ view: "task", id })} title=${`${called}\n${id}`}>${called}</a>`;
}

/** A link to a worker. */
export const WorkerLink = ({ name }) =>
  name ? html`<a class="quiet" href=${place({ view: "workers", name })}>${name}</a>` : null;

/** A command that does the same on the command line; a click copies it. */
export function Twin({ command }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    setCopied(await copyText(command));
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<button type="button" class="twin" title="Copy" onClick=${copy}>
    <code>${command}</code><span class="twin-done" aria-live="polite">${copied ? "copied" : ""}</span>
  </button>`;
}

/** To the clipboard; a page that came over plain HTTP has none to call, but can select and copy. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** How far something is. */
export function Progress({ value }) {
  if (value === null || value === undefined) return html`<span class="progress unknown" />`;
  const percent = Math.round(value * 100);
  return html`<span class="progress" role="progressbar" aria-valuenow=${percent} aria-valuemin="0" aria-valuemax="100">
    <span class="progress-fill" style=${{ width: `${percent}%` }} /><span class="progress-text">${percent} %</span>
  </span>`;
}

/** The newest values of a metric, as a small curve. */
export function Spark({ values }) {
  if (!values || values.length < 2) return null;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const y = (value) => 15 - ((value - low) / (high - low || 1)) * 13;
  const path = values.map((value, n) => `${n ? "L" : "M"}${((n / (values.length - 1)) * 58 + 1).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return html`<svg class="spark" viewBox="0 0 60 17" aria-hidden="true"><path d=${path} /></svg>`;
}

/** Metrics in one line. */
export const metricsLine = (metrics) => Object.entries(metrics).map(([name, value]) => `${name} ${figure(value)}`).join("  ");

/** A line in place of what is not there. */
export const Nothing = ({ children }) => html`<p class="nothing">${children}</p>`;

/** What a call said: nothing yet, an error, or its value drawn. */
export function Answer({ answer, children }) {
  if (answer.error) return html`<p class="trouble" role="alert">${answer.error.message} <span>${answer.error.next}</span></p>`;
  return answer.value === undefined ? html`<p class="nothing">…</p>` : children(answer.value);
}

/** The answer of a call, asked again when `keys` change; what was known stays until then. */
export function useAnswer(ask, keys) {
  const [answer, setAnswer] = useState({});
  useEffect(() => {
    let wanted = true;
    ask().then(
      (value) => wanted && setAnswer({ value }),
      (error) => wanted && setAnswer((known) => ({ ...known, error })),
    );
    return () => (wanted = false);
  }, keys);
  return answer;
}

/** Whether a media query holds. */
export function useMedia(media) {
  const [list] = useState(() => matchMedia(media));
  const [matches, setMatches] = useState(list.matches);
  useEffect(() => {
    const tell = () => setMatches(list.matches);
    list.addEventListener("change", tell);
    return () => list.removeEventListener("change", tell);
  }, [list]);
  return matches;
}

const notices = { list: [], tell: () => {} };

/** Say what was done, or why not. */
export function notify(text, bad = false) {
  const notice = { text, bad };
  notices.list = [...notices.list.slice(-2), notice];
  notices.tell();
  setTimeout(() => {
    notices.list = notices.list.filter((one) => one !== notice);
    notices.tell();
  }, bad ? 12000 : 5000);
}

/** Where notices stand. */
export function Notices() {
  const [, redraw] = useState(0);
  useEffect(() => void (notices.tell = () => redraw((n) => n + 1)), []);
  return html`<div class="notices" role="status" aria-live="polite">
    ${notices.list.map((one) => html`<p class=${one.bad ? "notice bad" : "notice"}>${one.text}</p>`)}
  </div>`;
}
