// The tail of the log: follows while asked to, keeps still while somebody reads.

import { byId, say } from "./words.js";
import { getJson } from "./feed.js";

const LINES = 300;

export class Log {
  constructor() {
    this.lines = [];
    this.box = byId("log");
    this.follow = byId("follow");
    this.follow.addEventListener("change", () => this.show());
    // Whoever scrolls up wants to read; whoever scrolls down to the end wants to follow.
    this.box.addEventListener("scroll", () => {
      const end = this.box.scrollHeight - this.box.clientHeight - this.box.scrollTop < 4;
      if (this.follow.checked !== end && !this.ours) {
        this.follow.checked = end;
        if (end) this.show();
      }
      this.ours = false;
    });
  }

  /** Reads the tail; returns the number from which a stream goes on without a gap. */
  async read() {
    try {
      const { lines, id } = await getJson(`api/v1/log?lines=${LINES}`);
      this.lines = lines;
      this.show();
      return id;
    } catch (error) {
      if (error.status && this.lines.length === 0) say(this.box, error.message);
      return undefined;
    }
  }

  add(line) {
    this.lines.push(line);
    if (this.lines.length > 2 * LINES) this.lines = this.lines.slice(-LINES);
    this.show();
  }

  show() {
    if (!this.follow.checked || this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      say(this.box, this.lines.slice(-LINES).join("\n"));
      this.ours = this.box.scrollTop + this.box.clientHeight < this.box.scrollHeight - 1;
      this.box.scrollTop = this.box.scrollHeight;
    });
  }
}
