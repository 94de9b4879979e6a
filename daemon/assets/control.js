// The buttons. Each is one POST with the token of the run directory; the token stays in this tab.

import { byId, say } from "./words.js";

const KEY = "beit-token";

const DONE = {
  pause: "Accepted: the run stands still after the step under way.",
  resume: "Accepted: the run goes on.",
  checkpoint: "Accepted: a checkpoint is being saved.",
  stop: "Accepted: it saves a checkpoint, then ends.",
};

export class Control {
  /** `stopped` is called when a stop was accepted. */
  constructor(stopped) {
    this.stopped = stopped;
    this.token = byId("token");
    this.token.value = sessionStorage.getItem(KEY) ?? "";
    this.token.addEventListener("input", () => sessionStorage.setItem(KEY, this.token.value.trim()));
    // Enter in the token field has nothing to send: the token is kept as it is typed.
    byId("control").addEventListener("submit", (event) => event.preventDefault());
    byId("pause").addEventListener("click", () => this.ask(this.paused ? "resume" : "pause"));
    byId("checkpoint").addEventListener("click", () => this.ask("checkpoint"));
    const dialog = byId("stop-dialog");
    byId("stop").addEventListener("click", () => dialog.showModal());
    byId("stop-no").addEventListener("click", () => dialog.close());
    byId("stop-yes").addEventListener("click", () => {
      dialog.close();
      this.ask("stop");
    });
  }

  show(board) {
    this.paused = board.state === "paused";
    this.file = `${board.run}/daemon.token`;
    say(byId("token-file"), this.file);
    say(byId("pause"), this.paused ? "Resume" : "Pause");
    const over = ["finished", "stopped", "failed"].includes(board.state);
    for (const id of ["pause", "checkpoint", "stop"]) byId(id).disabled = over;
  }

  async ask(what) {
    const token = this.token.value.trim();
    if (!/^[\x21-\x7e]+$/.test(token)) {
      this.tell("bad", token === "" ? `Enter the token first: it is in ${this.file}.` : "That is no token: it has only letters, digits and signs.");
      this.token.focus();
      return;
    }
    this.tell("", "Asking …");
    try {
      const headers = { Authorization: `Bearer ${token}` };
      const answer = await fetch(`api/v1/${what}`, { method: "POST", headers, signal: AbortSignal.timeout(10000) });
      if (answer.ok) {
        if (what === "stop") this.stopped();
        return this.tell("good", DONE[what]);
      }
      if (answer.status === 401) return this.tell("bad", `Wrong token: the right one is in ${this.file}.`);
      const { error } = await answer.json().catch(() => ({}));
      this.tell("bad", `Refused: ${error ?? `the daemon answered ${answer.status}`}.`);
    } catch {
      this.tell("bad", "No answer from the daemon; nothing is known to have changed.");
    }
  }

  tell(kind, text) {
    const result = byId("control-result");
    result.dataset.kind = kind;
    say(result, text);
  }
}
