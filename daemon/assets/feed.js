// Keeps the page in step with the daemon: a stream of server-sent events, polling while there is none, and a plain word
// when there is neither. Addresses are relative, so the page also works behind a proxy that puts it in a folder.

import { duration, setClock } from "./words.js";

/** Between two looks while the stream is down. */
const POLL_MS = 2000;
/** Between two looks while nobody looks at the page, or after the run's end. */
const CALM_POLL_MS = 15000;
/** A stream that is quiet for so long is checked with a look. */
const QUIET_MS = 10000;
/** Longest wait before a stream that could not be opened is tried again. */
const RETRY_MS = 30000;
/** An answer must be here by then. */
const ANSWER_MS = 8000;
/** States after which silence is no fault. */
const OVER = ["stopping", "finished", "stopped", "failed"];

export async function getJson(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });
  setClock(answer.headers.get("date"));
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(json.error ?? `${path}: ${answer.status}`), { status: answer.status });
  return json;
}

export class Feed {
  /**
   * `on` has: full(board), run(board), event(event), log(line), point(point); begin(), which reads everything afresh and
   * returns the number of the last thing it has seen; poll(), which reads what changes; link(word, text).
   */
  constructor(on) {
    this.on = on;
    this.stream = null;
    this.opening = false;
    this.reopenAt = 0;
    this.failures = 0;
    this.heardAt = performance.now();
    this.lookedAt = -Infinity;
    this.over = false;
    this.lost = false;
  }

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    setInterval(() => this.watch(), 1000);
    this.open();
  }

  /** Once a second: is there a stream, does it live, is it time to look? Hidden tabs cost the daemon no stream. */
  watch() {
    const moment = performance.now();
    if (!this.stream && !document.hidden && moment >= this.reopenAt) {
      this.open();
      return;
    }
    if (this.over && this.lost && !document.hidden) return; // the next try to open looks
    const patience = this.streaming() ? QUIET_MS : document.hidden ? CALM_POLL_MS : POLL_MS;
    if (moment - Math.max(this.heardAt, this.lookedAt) >= patience) this.look();
  }

  /** How long to wait before a stream is tried again. */
  pause() {
    return this.over && this.lost ? CALM_POLL_MS : Math.min(RETRY_MS, POLL_MS * 2 ** this.failures);
  }

  streaming() {
    return this.stream?.readyState === EventSource.OPEN;
  }

  close() {
    this.stream?.close();
    this.stream = null;
  }

  /** Reads everything afresh, and opens a stream that goes on from there. */
  async open() {
    if (this.opening) return;
    this.opening = true;
    this.close();
    this.reopenAt = performance.now() + this.pause();
    try {
      if ((await this.look()) && !document.hidden) {
        const after = await this.on.begin();
        if (!document.hidden) this.listen(new EventSource(after === undefined ? "api/v1/events" : `api/v1/events?after=${after}`));
      }
    } finally {
      this.opening = false;
    }
  }

  listen(stream) {
    this.stream = stream;
    this.failures += 1;
    stream.onopen = () => {
      this.failures = 0;
      this.hear();
      this.on.link("live", "live");
    };
    stream.onerror = () => {
      // The browser would come back by itself, but not to what was polled meanwhile.
      const lasted = stream === this.stream && this.failures === 0;
      stream.close();
      if (stream !== this.stream) return;
      this.stream = null;
      this.reopenAt = performance.now() + (lasted ? 0 : this.pause());
      this.look();
    };
    for (const kind of ["run", "event", "log", "point"]) {
      stream.addEventListener(kind, (message) => {
        if (stream !== this.stream) return;
        this.hear();
        const news = kind === "log" ? message.data : JSON.parse(message.data);
        if (kind === "run") this.over = OVER.includes(news.state);
        this.on[kind](news);
      });
    }
  }

  hear() {
    this.heardAt = performance.now();
    if (this.lost) {
      // The daemon is back: no need to wait any longer for a stream.
      this.lost = false;
      this.failures = 0;
      if (!this.stream) this.reopenAt = 0;
    }
  }

  /** One look at the board, the way of pages without a stream; returns whether there was an answer. */
  async look() {
    this.lookedAt = performance.now();
    let board;
    try {
      board = await getJson("api/v1/run");
    } catch {
      this.lost = true;
      const silent = duration((performance.now() - this.heardAt) / 1000);
      if (this.over) this.on.link("over", "the daemon has ended; this is the last it said");
      else this.on.link("lost", `connection lost: no word for ${silent}, trying again`);
      return false;
    }
    this.hear();
    this.over = OVER.includes(board.state);
    this.on.full(board);
    if (this.streaming()) {
      this.on.link("live", "live");
    } else if (!this.opening) {
      this.on.link("polling", "no stream: asking every few seconds");
      this.on.poll();
    }
    return true;
  }
}
