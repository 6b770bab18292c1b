// What an attempt has written, as it comes. The newest part is kept; the whole is a link away.

import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { open, segment } from "../api.js";
import { Nothing } from "../parts.js";

const KEPT = 200_000; // characters
const AGAIN = 2000; // ms after which a log that was cut off is opened anew

async function read(path, signal, tell) {
  const answer = await open(path, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let waiting = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text = (text + value).slice(-KEPT);
    waiting ||= setTimeout(() => {
      waiting = 0;
      tell(text);
    }, 100);
  }
  clearTimeout(waiting);
  tell(text);
}

/** `over`: nothing more will come. `attempt`: 0 for the last one. */
export function Log({ id, attempt, over }) {
  const [text, setText] = useState("");
  const [trouble, setTrouble] = useState(null);
  const [following, setFollowing] = useState(true);
  const box = useRef(null);
  const path = `/tasks/${segment(id)}/logs?attempt=${attempt}`;

  useEffect(() => {
    const ends = new AbortController();
    let later = 0;
    const run = () =>
      read(over ? path : `${path}&follow=true`, ends.signal, (told) => {
        if (ends.signal.aborted) return;
        setTrouble(null);
        setText(told);
      }).catch((error) => {
        if (ends.signal.aborted) return;
        setTrouble(error);
        later = setTimeout(run, AGAIN);
      });
    run();
    return () => {
      clearTimeout(later);
      ends.abort();
    };
  }, [path, over]);
  useEffect(() => {
    if (following && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [text, following]);

  const scrolled = ({ currentTarget: view }) => setFollowing(view.scrollTop + view.clientHeight > view.scrollHeight - 30);
  const quiet = !text && (!trouble || trouble.status === 404);
  return html`<section class="block">
    <h2>Log <span class="soft">${attempt ? `of attempt ${attempt}` : ""} ${over ? "" : following ? "follows" : "held; scroll to its end to follow"}</span>
      <a class="quiet end" href=${`/api/v1${path}`} target="_blank" rel="noopener">all of it</a></h2>
    ${trouble && trouble.status !== 404 && html`<p class="trouble">${trouble.message}</p>`}
    ${quiet ? html`<${Nothing}>It has written nothing.<//>` : html`<pre class="log" ref=${box} tabindex="0" onScroll=${scrolled}>${text}</pre>`}
  </section>`;
}
