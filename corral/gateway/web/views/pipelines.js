// Pipelines: the tasks of a project as a graph that fills as it goes. A pipeline submits its tasks
// under its own name as project; so whatever shares a project is shown here, also without parents.

import { html, useMemo, useState } from "../vendor/htm-preact.js";
import { bulkAction, Buttons, may } from "../actions.js";
import { get, pinned, segment } from "../api.js";
import { clock, count, many, span, title } from "../format.js";
import { layout } from "../graph.js";
import { Answer, Nothing, useAnswer } from "../parts.js";
import { LIVE, LOST, Mark, STATES } from "../states.js";
import { place } from "../url.js";

const DRAWN = 1200; // more than these are a picture of nothing
const [WIDTH, ROW, GAP] = [210, 24, 60];

function tally(rows) {
  const counts = {};
  for (const { state } of rows) counts[state] = (counts[state] ?? 0) + 1;
  return counts;
}

/** Tasks by state, as one bar. */
function Bar({ counts }) {
  const all = Object.values(counts).reduce((sum, n) => sum + n, 0);
  const told = STATES.filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`).join(", ");
  return html`<span class="stack" role="img" aria-label=${told} title=${told}>
    ${["succeeded", "running", "retrying", "queued", "waiting", ...LOST].filter((state) => counts[state]).map((state) => html`<span key=${state} class=${`s-${state}`} style=${{ width: `${(counts[state] / all) * 100}%` }} />`)}
  </span>`;
}

function Graph({ tasks, live }) {
  const [over, setOver] = useState("");
  const { nodes, edges, columns, rows } = useMemo(() => layout(tasks), [tasks]);
  const at = new Map(nodes.map((node) => [node.task.id, node]));
  const near = new Set(edges.filter((edge) => edge.includes(over)).flat());
  const x = ({ column }) => column * (WIDTH + GAP);
  const y = (node) => node.y * ROW + ROW / 2;
  // A name begins with where it belongs, which the columns before it tell.
  const label = (task) => (task.name ? task.name.split("/").slice(-2).join("/") : title(task));
  return html`<div class="graph scroll" style=${{ height: `min(75vh, ${rows * ROW + 24}px)` }}>
    <div style=${{ width: `${columns * (WIDTH + GAP)}px`, height: `${rows * ROW}px`, position: "relative" }}>
      <svg width=${columns * (WIDTH + GAP)} height=${rows * ROW} aria-hidden="true">
        ${edges.map(([from, to]) => {
          const [one, other] = [at.get(from), at.get(to)];
          const [x1, y1, x2, y2] = [x(one) + WIDTH, y(one), x(other), y(other)];
          return html`<path key=${`${from} ${to}`} class=${over && (from === over || to === over) ? "edge near" : "edge"} d=${`M${x1} ${y1}C${x1 + GAP / 2} ${y1} ${x2 - GAP / 2} ${y2} ${x2} ${y2}`} />`;
        })}
      </svg>
      ${nodes.map((node) => {
        const { id } = node.task;
        const row = live.get(id) ?? node.task;
        return html`<a key=${id} class=${`node s-${row.state} ${over && !near.has(id) && id !== over ? "far" : ""}`} href=${place({ view: "task", id })}
          style=${{ left: `${x(node)}px`, top: `${node.y * ROW + 2}px`, width: `${WIDTH}px` }} title=${`${title(row)}\n${row.kind}, ${row.state}${row.why ? `\n${row.why}` : ""}`}
          onMouseEnter=${() => setOver(id)} onMouseLeave=${() => setOver("")} onFocus=${() => setOver(id)} onBlur=${() => setOver("")}>
          <${Mark} state=${row.state} /><span>${label(node.task)}</span>
          ${row.state === "running" && row.progress !== null && html`<i style=${{ width: `${row.progress * 100}%` }} />`}
        </a>`;
      })}
    </div>
  </div>`;
}

/** Of a past moment: what had been submitted by then. */
const there = (tasks, live) => (pinned() ? new Map([...tasks].filter(([id]) => live.has(id))) : tasks);

function Pipeline({ project, live }) {
  const mine = [...live.values()].filter((row) => row.project === project);
  const answer = useAnswer(async () => {
    const { graph } = await get(`/pipelines/${segment(project)}`);
    return new Map(graph.map((task) => [task.id, task]));
  }, [project, mine.length]);
  const counts = tally(mine);
  const [begun, ends] = [Math.min(...mine.map((row) => row.submitted)), Math.max(...mine.map((row) => row.ended ?? 0))];
  const going = mine.some((row) => LIVE.includes(row.state));
  const actions = !may("client") ? [] : [...(going ? [bulkAction("Cancel", { project })] : []), ...(LOST.some((state) => counts[state]) ? [bulkAction("Retry", { project })] : [])];
  return html`<section class="view">
    <header class="task-head"><h1>${project}</h1><${Bar} counts=${counts} />
      <span class="soft">${mine.length > 0 && (going ? `since ${clock(begun)}` : `took ${span(ends - begun)}`)}</span>
      <span class="end"><${Buttons} actions=${actions} /></span></header>
    <p class="figures">${STATES.filter((state) => counts[state]).map((state) => html`<a key=${state} class=${`tally s-${state}`} href=${place({ view: "queue", state, project })}><${Mark} state=${state} /><b>${count(counts[state])}</b> ${state}</a> `)}</p>
    <${Answer} answer=${answer}>${(tasks) =>
      there(tasks, live).size > DRAWN
        ? html`<${Nothing}>${many(there(tasks, live).size, "task")} are too many for a picture. <a href=${place({ view: "queue", state: "all", project })}>They are in the queue.</a><//>`
        : html`<${Graph} tasks=${there(tasks, live)} live=${live} />`}<//>
  </section>`;
}

export function Pipelines({ state: { tasks, loaded }, where }) {
  if (where.project) return html`<${Pipeline} key=${where.project} project=${where.project} live=${tasks} />`;
  const projects = new Map();
  for (const row of tasks.values()) {
    if (!row.project) continue;
    const known = projects.get(row.project) ?? { rows: [], kinds: new Set(), newest: 0 };
    known.rows.push(row);
    known.kinds.add(row.kind);
    known.newest = Math.max(known.newest, row.submitted);
    projects.set(row.project, known);
  }
  const listed = [...projects].sort(([, one], [, other]) => other.newest - one.newest);
  if (loaded && !listed.length) return html`<section class="view"><${Nothing}>No task belongs to a project. <code>corral pipeline run demo</code> submits a graph of them.<//></section>`;
  return html`<section class="view">
    ${listed.map(([project, { rows, kinds, newest }]) => {
      const counts = tally(rows);
      return html`<article key=${project} class="pipeline">
        <h2><a href=${place({ view: "pipelines", project })}>${project}</a></h2>
        <${Bar} counts=${counts} />
        <p class="soft"><span>${many(rows.length, "task")}</span><span>${count(counts.succeeded ?? 0)} succeeded</span>
          ${LOST.some((state) => counts[state]) && html`<span>${LOST.filter((state) => counts[state]).map((state) => `${counts[state]} ${state}`).join(", ")}</span>`}
          <span>${[...kinds].slice(0, 6).join(", ")}</span><span>newest ${clock(newest)}</span></p>
      </article>`;
    })}
  </section>`;
}
