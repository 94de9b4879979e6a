// Keeps the page in step with the daemon: a stream of server-sent events, polling while there is none, and a plain word
// when there is neither. Addresses are relative, so the page also works behind a proxy that puts it in a folder.

import { duration, setClock } from "./words.js";

/** Between two looks while the stream is down. */
const POLL_MS = 2000;
/** Between two looks while nobody looks at the page. */
const HIDDEN_POLL_MS = 15000;
/** A stream that is quiet for so long is checked with a look. */
const QUIET_MS = 10000;
/** Before a stream that the browser gave up is opened again. */
const REOPEN_MS = 5000;
/** An answer must be here by then. */
const ANSWER_MS = 8000;

const OVER = ["finished", "stopped", "failed"];

export async function getJson(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
  setClock(answer.headers.get("date"));
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(json.error ?? `${path}: ${answer.status}`), { status: answer.status });
  return json;
}

export class Feed {
  /** `on` has: run(board), full(board), event(event), log(line), point(point), restart(), link(word, text). */
  constructor(on) {
    this.on = on;
    this.stream = null;
    this.heardAt = performance.now();
    this.timer = 0;
    this.over = false;
  }

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.rest() : this.open()));
    window.addEventListener("pagehide", () => this.rest());
    setInterval(() => this.watch(), 1000);
    this.open();
  }

  /** Opens the stream and reads everything afresh. */
  open() {
    this.rest();
    this.look();
    this.on.restart();
    this.stream = new EventSource("api/v1/events");
    this.stream.onopen = () => {
      this.heard();
      // Whatever was missed meanwhile is read again.
      if (this.broken) this.on.restart();
      this.broken = false;
      this.on.link("live", "live");
    };
    this.stream.onerror = () => {
      this.broken = true;
      if (this.stream.readyState === EventSource.CLOSED) {
        this.stream = null;
        this.reopenAt = performance.now() + REOPEN_MS;
      }
      this.look();
    };
    for (const kind of ["run", "event", "log", "point"]) {
      this.stream.addEventListener(kind, (message) => {
        this.heard();
        this.on[kind](parse(message.data));
      });
    }
  }

  /** Closes the stream: hidden tabs cost the daemon no connection. */
  rest() {
    this.stream?.close();
    this.stream = null;
    this.reopenAt = document.hidden ? Infinity : 0;
  }

  heard() {
    this.heardAt = performance.now();
  }

  streaming() {
    return this.stream?.readyState === EventSource.OPEN;
  }

  watch() {
    const moment = performance.now();
    if (!this.stream && moment > (this.reopenAt ?? 0) && !document.hidden) this.open();
    const patience = document.hidden ? HIDDEN_POLL_MS : this.streaming() ? QUIET_MS : POLL_MS;
    if (moment - Math.max(this.heardAt, this.lookedAt ?? 0) >= patience) this.look();
  }

  /** One look at the board, the way of pages without a stream. */
  async look() {
    this.lookedAt = performance.now();
    try {
      const board = await getJson("api/v1/run");
      this.heard();
      this.over = OVER.includes(board.state);
      this.on.full(board);
      if (!this.streaming()) {
        this.on.link("polling", "no stream: asking every few seconds");
        this.on.poll();
      } else {
        this.on.link("live", "live");
      }
    } catch {
      const silent = duration((performance.now() - this.heardAt) / 1000);
      if (this.over) this.on.link("over", "the daemon has ended; this is the last it said");
      else this.on.link("lost", `connection lost: no word for ${silent}, trying again`);
    }
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // a log line travels as it is
  }
}
