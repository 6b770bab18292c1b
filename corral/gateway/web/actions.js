// What a person may do: cancel, retry, drain, resume, one or many at once. Each asks first, says how
// many it is about, and shows the command that does the same. Whether it is allowed is the gateway's
// decision; whoever may only look sees none of it.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { pinned, post, segment } from "./api.js";
import { command, count, many, title } from "./format.js";
import { LIVE, LOST } from "./states.js";
import { notify, Twin } from "./parts.js";

const RANK = ["viewer", "client", "operator"];
const me = { name: "", role: "viewer", signed_in: false, version: "", history: false };

/** Who looks at this page, as the gateway told. */
export const who = () => me;
export const iAm = (told) => Object.assign(me, told);

/** Whether this person may do what needs a role; what has passed can only be looked at. */
export const may = (role) => !pinned() && RANK.indexOf(me.role) >= RANK.indexOf(role);

const reasonOf = (reason) => (reason ? ["--reason", reason] : []);

/** What can be done to one task now, as {word, danger, twin(reason), reason, act(reason)}. */
export function taskActions(task) {
  if (!may("client")) return [];
  const path = `/tasks/${segment(task.id)}`;
  if (LIVE.includes(task.state))
    return [{
      word: "Cancel", danger: true, reason: true,
      about: `${title(task)} ends for good; what it has done so far is lost unless it was saved.`,
      twin: (reason) => command("task", "cancel", task.id, ...reasonOf(reason)),
      act: (reason) => post(`${path}/cancel`, { reason }),
      done: `${title(task)} is cancelled`,
    }];
  if (LOST.includes(task.state))
    return [{
      word: "Retry",
      about: `A new run of ${title(task)} begins, under the same id.`,
      twin: () => command("task", "retry", task.id),
      act: () => post(`${path}/retry`),
      done: `${title(task)} runs again`,
    }];
  return [];
}

/** What can be done to one worker now. */
export function workerActions(worker) {
  if (!may("operator") || worker.health === "gone") return [];
  const path = `/workers/${segment(worker.name)}`;
  if (worker.admission === "open")
    return [{
      word: "Drain", danger: true, reason: true,
      about: `${worker.name} gets nothing new; its ${many(worker.tasks.length, "task")} may end.`,
      twin: (reason) => command("worker", "drain", worker.name, ...reasonOf(reason)),
      act: (reason) => post(`${path}/drain`, { reason }),
      done: `${worker.name} drains`,
    }];
  return [{
    word: "Resume",
    about: `${worker.name} is given work again.`,
    twin: () => command("worker", "resume", worker.name),
    act: () => post(`${path}/resume`),
    done: `${worker.name} works again`,
  }];
}

/** What can be done to all tasks that match {state, kind, project}: the gateway counts them first. */
export function bulkAction(word, filter) {
  const verb = word.toLowerCase();
  const flags = ["state", "kind", "project"].flatMap((name) => (filter[name] ? [`--${name}`, filter[name]] : []));
  return {
    word: `${word} all …`, danger: word === "Cancel", reason: word === "Cancel",
    count: async () => (await post(`/tasks/${verb}`, filter)).matched,
    about: (n) => `${many(n, "task")} match: ${flags.join(" ")}.`,
    confirm: (n) => `${word} ${count(n)}`,
    twin: (reason) => command("task", verb, ...flags, ...reasonOf(reason)),
    act: async (reason, n) => {
      const body = { ...filter, confirm: n, ...(reason ? { reason } : {}) };
      const { changed, unchanged } = await post(`/tasks/${verb}`, body);
      const left = Object.values(unchanged)[0];
      return left ? `; ${count(Object.keys(unchanged).length)} left as they were: ${left}` : `: ${count(changed.length)}`;
    },
    done: word === "Cancel" ? "cancelled" : "queued again",
  };
}

const asking = { action: null, tell: () => {} };

/** Ask whether it shall be done. */
export function ask(action) {
  if (!action) return;
  asking.action = action;
  asking.tell();
}

/** The buttons of what can be done. */
export const Buttons = ({ actions }) =>
  actions.map((action) => html`<button type="button" key=${action.word} class=${action.danger ? "act danger" : "act"}
    onClick=${(event) => (event.stopPropagation(), ask(action))}>${action.word}</button>`);

/** The dialog that asks; one for the whole page. */
export function Dialog() {
  const [, redraw] = useState(0);
  useEffect(() => void (asking.tell = () => redraw((n) => n + 1)), []);
  const { action } = asking;
  return action ? html`<${Question} key=${action} action=${action} />` : null;
}

function Question({ action }) {
  const [reason, setReason] = useState("");
  const [matched, setMatched] = useState(action.count ? null : 1);
  const [trouble, setTrouble] = useState(null);
  const [busy, setBusy] = useState(false);
  const box = useRef(null);
  const close = () => {
    asking.action = null;
    asking.tell();
  };
  useLayoutEffect(() => {
    box.current.showModal();
    action.count?.().then(setMatched, setTrouble);
  }, []);
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const told = await action.act(reason.trim(), matched);
      notify(action.done + (typeof told === "string" ? told : ""));
      close();
    } catch (error) {
      setTrouble(error);
      setBusy(false);
    }
  };
  const about = typeof action.about === "string" ? action.about : matched === null ? "counting …" : action.about(matched);
  const yes = action.confirm && matched !== null ? action.confirm(matched) : action.word;
  return html`<dialog ref=${box} onClose=${close} aria-labelledby="question">
    <form onSubmit=${send}>
      <h2 id="question">${action.word}</h2>
      <p>${about}</p>
      ${action.reason && html`<label>Why? <span class="soft">(kept, and shown to others)</span>
        <input name="reason" maxlength="1000" autofocus value=${reason} onInput=${(event) => setReason(event.target.value)} /></label>`}
      <p class="soft">The same on the command line:</p>
      <${Twin} command=${action.twin(reason.trim())} />
      ${trouble && html`<p class="trouble" role="alert">${trouble.message} <span>${trouble.next}</span></p>`}
      <div class="dialog-end">
        <button type="button" class="act" onClick=${() => box.current.close()}>Leave it</button>
        <button class=${action.danger ? "act danger full" : "act full"} disabled=${busy || !matched}>${yes}</button>
      </div>
    </form>
  </dialog>`;
}

/** The first action of a thing whose word is one of these, for a key. */
export const first = (actions, ...words) => actions.find((one) => words.includes(one.word));
