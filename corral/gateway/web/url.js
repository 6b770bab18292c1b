// The place in the page: which view, which task, which filter, all of it in the query of the URL, so
// that the back button works and a link shows what its sender saw. Nothing else is remembered here.

const listeners = new Set();

/** What the query says, as an object of strings. */
export function params() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** The query with some names changed; an empty value takes a name away. */
export function query(change, from = {}) {
  const next = new URLSearchParams(from);
  for (const [name, value] of Object.entries(change)) {
    if (value === undefined || value === null || value === "") next.delete(name);
    else next.set(name, value);
  }
  return `?${next}`;
}

/** The link to another view, without the filters of this one; the past that is shown stays. */
export const place = (where) => query(where, query({ at: params().at }).slice(1));

/** The link to this view with some names changed. */
export const here = (change) => query(change, location.search);

/** Go where a link leads. */
export function go(link, { replace = false } = {}) {
  if (link === (location.search || "?")) return;
  history[replace ? "replaceState" : "pushState"](null, "", link === "?" ? location.pathname : link);
  for (const tell of listeners) tell();
}

/** Be told when the place changes. */
export function onMove(tell) {
  listeners.add(tell);
  return () => listeners.delete(tell);
}

addEventListener("popstate", () => listeners.forEach((tell) => tell()));

// A link to a place in this page is followed without leaving it; one with a modifier is the browser's.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='?']");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
