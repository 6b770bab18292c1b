// A table of any length: only the rows in sight are in the document. It scrolls by itself, keeps the
// widths of its columns, and is walked with j and k. What a row says is told by its columns. On a small
// screen a column may stand on a line of its own, under the others.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { useMedia } from "./parts.js";
import { onKeys } from "./keys.js";

const ROW = 36; // pixels
const TWO_LINES = 58; // pixels of a row that has a column under the others
const BEYOND = 8; // rows drawn above and below those in sight

/**
 * `columns`: {id, title, width, cell(row), from}: `from` is "wide" or "mid" for those that small screens
 * leave out, `under` for one that they put on a second line. `onSeen` is told the rows in sight, `keys` says what x and r do to the row chosen.
 */
export function Table({ label, columns, rows, id, onOpen, onSeen, keys = {}, sort, onSort }) {
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [chosen, setChosen] = useState(null);
  const box = useRef(null);
  const narrow = useMedia("(max-width: 700px)");
  const mid = useMedia("(max-width: 1100px)");
  const kept = columns.filter(({ from }) => !(from === "wide" && mid) && !(from && narrow));
  const under = (column) => narrow && Boolean(column.under);
  const beside = kept.filter((column) => !under(column));
  const template = { gridTemplateColumns: beside.map((column) => (narrow && column.narrow) || column.width).join(" ") };
  const size = beside.length < kept.length ? TWO_LINES : ROW;
  const classes = (column) => `${column.class ?? ""}${under(column) ? " under" : ""}`;

  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => setHeight(box.current?.clientHeight ?? 0));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);

  const first = Math.max(0, Math.min(Math.floor(top / size), rows.length - 1) - BEYOND);
  const seen = rows.slice(first, first + Math.ceil(height / size) + 2 * BEYOND);
  useEffect(() => onSeen?.(seen));

  // Keys may come faster than the page is drawn, so they look at what is, not at what was drawn.
  const is = useRef({});
  is.current = { rows, keys, onOpen, chosen, size };
  useLayoutEffect(() => {
    const at = () => is.current.rows.findIndex((row) => id(row) === is.current.chosen);
    const act = (does) => {
      const row = is.current.rows[at()];
      if (row) does?.(row);
    };
    const move = (step) => {
      const { rows, size } = is.current;
      if (!rows.length) return;
      const next = Math.max(0, Math.min(rows.length - 1, at() < 0 ? 0 : at() + step));
      is.current.chosen = id(rows[next]);
      setChosen(is.current.chosen);
      const [y, view] = [next * size, box.current];
      if (y < view.scrollTop) view.scrollTop = y;
      else if (y + 2 * size > view.scrollTop + view.clientHeight) view.scrollTop = y + 2 * size - view.clientHeight;
    };
    return onKeys({
      j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
      Enter: () => act(is.current.onOpen),
      x: () => act(is.current.keys.x), r: () => act(is.current.keys.r),
    });
  }, []);

  const head = (column) => {
    if (!column.sort || !onSort) return column.title;
    const [by, down] = [sort.replace(/^-/, ""), sort.startsWith("-")];
    const mine = by === column.id;
    const mark = mine ? (down ? " ↓" : " ↑") : "";
    return html`<button type="button" class="sort" onClick=${() => onSort(mine && !down ? `-${column.id}` : column.id)}>${column.title}${mark}</button>`;
  };
  return html`<div class="table" role="table" aria-label=${label} aria-rowcount=${rows.length}>
    <div class="table-head" role="row" style=${template}>
      ${kept.map((column) => html`<span role="columnheader" class=${classes(column)} key=${column.id}>${head(column)}</span>`)}
    </div>
    <div class="table-body" ref=${box} tabindex="0" onScroll=${(event) => setTop(event.currentTarget.scrollTop)}>
      <div class="table-all" role="rowgroup" style=${{ height: `${rows.length * size}px` }}>
        ${seen.map((row, n) => {
          const name = id(row);
          return html`<div key=${name} role="row" aria-rowindex=${first + n + 1} aria-selected=${name === chosen}
            class=${name === chosen ? "row chosen" : "row"} style=${{ ...template, height: `${size}px`, top: `${(first + n) * size}px` }}
            onClick=${() => setChosen(name)} onDblClick=${() => onOpen?.(row)}>
            ${kept.map((column) => html`<span role="cell" class=${`cell ${classes(column)}`} key=${column.id}>${column.cell(row)}</span>`)}
          </div>`;
        })}
      </div>
    </div>
  </div>`;
}
