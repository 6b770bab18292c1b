// Words and figures for people: times, lengths of time, amounts. Pure. What they are put into is
// elsewhere. Whole seconds since 1970 come from the gateway, whose clock `api.js` compares to ours.

/** "8.2 s", "4 min 05 s", "2 h 10 min", "3 d 4 h". */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.floor(s)} s`;
  const [minutes, hours, days] = [60, 3600, 86400].map((size) => Math.floor(s / size));
  if (s < 3600) return `${minutes} min ${two(Math.floor(s % 60))} s`;
  if (s < 86400) return `${hours} h ${two(minutes % 60)} min`;
  return `${days} d ${hours % 24} h`;
}

const two = (n) => String(n).padStart(2, "0");

/** "14:02:11", with the day when it is another one. */
export function clock(seconds) {
  if (!seconds) return "";
  const at = new Date(seconds * 1000);
  const time = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":");
  return at.toDateString() === new Date().toDateString() ? time : `${day(at)} ${time}`;
}

const day = (at) => [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join("-");

/** "12,345" */
export const count = (n) => Number(n ?? 0).toLocaleString("en");

/** "task" of 1, "tasks" of 2 */
export const plural = (n, noun) => (n === 1 ? noun : `${noun}s`);

/** "1 task", "2 tasks" */
export const many = (n, noun) => `${count(n)} ${plural(n, noun)}`;

/** "23.5 GiB", and "256 MiB" of less than one: as the command line writes it. */
export const gib = (n) => (n > 0 && n < 1 ? `${Math.round(n * 1024)} MiB` : `${Number(n.toFixed(1))} GiB`);

/** A figure with four digits that matter. */
export function figure(x) {
  if (!Number.isFinite(x)) return String(x);
  const size = Math.abs(x);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? x.toExponential(2) : String(Number(x.toPrecision(4)));
}

/** "1.5 MiB" */
export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  for (; n >= 1024 && place < units.length - 1; place++) n /= 1024;
  return `${place && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[place]}`;
}

/** The beginning of an id, enough for people. */
export const short = (id) => (id.length > 10 ? id.slice(0, 8) : id);

/** What a person calls a task. */
export const title = (task) => task.name || task.kind || short(task.id);

/** A word for a shell: quoted when it must be. */
export const shell = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** A command of our command line, from words; those that are empty are left out. */
export const command = (...words) => ["corral", ...words].filter((w) => w !== "").map(shell).join(" ");

/**
 * What is the same in messages of one trouble: ids, numbers, paths and quoted words differ from task
 * to task, the rest names the trouble.
 */
export function fingerprint(message) {
  return message
    .split("\n", 1)[0]
    .replace(/'[^']*'|"[^"]*"|`[^`]*`/g, "‘…’")
    .replace(/(?:\/[\w.@-]+){2,}/g, "/…")
    .replace(/\b(?=\w*\d)[0-9a-f]{8,}\b/gi, "#")
    .replace(/\d+(?:[.,:]\d+)*/g, "#")
    .slice(0, 300)
    .trim();
}
