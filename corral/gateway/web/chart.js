// Curves over time, drawn by uPlot, in the colours of the page. What they show is told by whoever
// uses them; uPlot itself is fetched when the first curve is drawn.

import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { figure } from "./format.js";
import { useMedia } from "./parts.js";

const HEIGHT = 190;
const INK = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];
let library = null;

function load() {
  library ??= new Promise((ready, failed) => {
    const script = document.createElement("script");
    script.src = "/web/vendor/uplot.js";
    script.onload = () => ready(window.uPlot);
    script.onerror = failed;
    document.head.append(script);
  });
  return library;
}

/** Without a pointer the legend tells the newest figures. */
function newest(plot) {
  if (plot && plot.cursor.left < 0) plot.setLegend({ idx: plot.data[0].length - 1 });
}

function options(names, width, style) {
  const ink = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: ink("--soft"), grid: { stroke: ink("--hair"), width: 1 }, ticks: { stroke: ink("--hair"), width: 1 }, font: "11px system-ui, sans-serif" };
  const clock = (_, ats) => ats.map((at) => new Date(at * 1000).toTimeString().slice(0, 8));
  return {
    width, height: HEIGHT, padding: [10, 8, 0, 0],
    cursor: { points: { size: 6 } },
    legend: { live: true },
    scales: { x: { time: true } },
    axes: [{ ...axis, values: clock, space: 80 }, { ...axis, size: 58, values: (_, values) => values.map(figure) }],
    series: [
      { value: (_, at) => (at === null ? "" : new Date(at * 1000).toTimeString().slice(0, 8)) },
      ...names.map((label, n) => ({ label, stroke: ink(INK[n % INK.length]), width: 1.6, spanGaps: true, points: { show: false }, value: (_, v) => (v === null || v === undefined ? "" : figure(v)) })),
    ],
  };
}

/** `points`: {at, values: {name: number}}, in the order of time; `names`: which to draw. */
export function Chart({ label, points, names }) {
  const box = useRef(null);
  const plot = useRef(null);
  const dark = useMedia("(prefers-color-scheme: dark)");
  const data = [points.map((point) => point.at), ...names.map((name) => points.map((point) => point.values[name] ?? null))];
  const latest = useRef(data);
  latest.current = data;
  const same = names.join("\n");

  useEffect(() => {
    let wanted = true;
    const width = () => Math.max(200, box.current.clientWidth);
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: width(), height: HEIGHT }));
    load().then((UPlot) => {
      if (!wanted) return;
      plot.current = new UPlot(options(names, width(), getComputedStyle(document.documentElement)), latest.current, box.current);
      watch.observe(box.current);
      newest(plot.current);
    });
    return () => {
      wanted = false;
      watch.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [same, dark]);
  useEffect(() => {
    plot.current?.setData(data);
    newest(plot.current);
  });
  return html`<figure class="chart" aria-label=${label}><div ref=${box} /></figure>`;
}
