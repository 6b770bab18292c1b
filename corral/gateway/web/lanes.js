// Lanes: what ran where and when, as bars on a line of time, and how much of it was idle. Pure: rows
// and a span of time go in, bars go out. How they are drawn is `views/fleet.js`'s matter.

const LEAST = 0.003; // of the span: shorter bars beside each other become one

/** Rows of one worker as intervals within [from, to], oldest first. */
export function intervals(rows, from, to) {
  const found = [];
  for (const row of rows) {
    if (!row.started) continue;
    const [begin, end] = [row.started, row.ended ?? to];
    if (end < from || begin > to) continue;
    found.push({ row, begin: Math.max(begin, from), end: Math.max(Math.min(end, to), begin) });
  }
  return found.sort((one, other) => one.begin - other.begin);
}

/** The same on so many lanes, so that no two overlap on one as far as lanes suffice. */
export function packed(found, lanes) {
  const made = Array.from({ length: lanes }, () => []);
  const free = new Array(lanes).fill(-Infinity);
  for (const one of found) {
    let lane = free.findIndex((end) => end <= one.begin + 1e-6);
    if (lane < 0) lane = free.indexOf(Math.min(...free));
    made[lane].push(one);
    free[lane] = Math.max(free[lane], one.end);
  }
  return made;
}

/** Bars of one lane: {left, width} of the span, the row, and how many rows it stands for. */
export function bars(lane, from, to) {
  const length = to - from;
  const made = [];
  for (const { row, begin, end } of lane) {
    const bar = { left: (begin - from) / length, width: (end - begin) / length, row, stands: 1, begin, end };
    const last = made.at(-1);
    const near = last && bar.left - (last.left + last.width) < LEAST / 2;
    if (near && bar.width < LEAST && (last.stands > 1 || last.width < LEAST)) {
      last.width = Math.max(last.width, bar.left + bar.width - last.left);
      last.stands += 1;
      last.end = end;
      if (row.state === "failed") last.row = row;
    } else made.push(bar);
  }
  return made;
}

/** The part of [from, to] in which a lane ran nothing. */
export function idle(lane, from, to) {
  let busy = 0;
  let reached = from;
  for (const { begin, end } of lane) {
    busy += Math.max(0, end - Math.max(begin, reached));
    reached = Math.max(reached, end);
  }
  return 1 - busy / (to - from);
}
