// The keyboard: one listener, asked from the newest part of the page to the oldest. Keys mean
// nothing here while somebody types into a field or a dialog is open.

const stack = [];

export const HELP = [
  ["/", "filter"],
  ["j  k", "down, up"],
  ["Enter", "open"],
  ["x", "cancel the task, or drain the worker"],
  ["r", "retry the task, or resume the worker"],
  ["p", "pause, go on"],
  ["1 … 8", "the views"],
  ["Backspace", "back"],
  ["?", "this"],
];

/**
 * Let keys do something, until the function that this returns is called. Call it from a layout effect:
 * what is seen answers its keys at once, while other effects run a frame later.
 */
export function onKeys(does) {
  stack.push(does);
  return () => stack.splice(stack.indexOf(does), 1);
}

// A dialog that has just been closed keeps the focus until the page is drawn again.
const TYPING = ":is(input, textarea, select, [contenteditable]):not(dialog:not([open]) *)";

addEventListener("keydown", (event) => {
  if (event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === "Escape" && event.target.matches?.("input[type=search]")) {
    event.preventDefault(); // it would empty the field
    event.target.blur();
  }
  if (event.target.closest?.(TYPING) || document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && event.target.closest?.(":is(a, button, summary):not(dialog:not([open]) *)")) return;
  const does = stack.findLast((one) => event.key in one)?.[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});
