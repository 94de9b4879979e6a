// The board as text: state, progress, numbers, ranks, stages, checkpoints, events.

import { age, byId, bytes, clock, count, duration, fixed, known, make, now, percent, rate, say, small } from "./words.js";

const DOING = {
  start: "starting", data: "waiting for data", step: "forward and backward", agree: "agreeing with the other ranks",
  update: "optimizer update", checkpoint: "saving a checkpoint", paused: "paused", done: "done",
};

const sum = (counts) => Object.values(counts ?? {}).reduce((total, value) => total + value, 0);

/** The non-zero entries of a table of counts, in words. */
const causes = (counts) =>
  Object.entries(counts ?? {}).filter(([, value]) => value > 0).map(([name, value]) => `${value} ${name.replaceAll("_", " ")}`).join(", ");

export function showState(board) {
  const state = byId("state");
  state.dataset.state = !board.ready && board.state === "running" ? "stalled" : board.state;
  say(state, board.state);
  say(byId("recipe"), board.recipe);
  say(byId("readiness"), sentence(board));
  const error = byId("error");
  const past = board.ready || board.state === "paused"; // it trains again: no alarm
  error.hidden = !board.error;
  error.classList.toggle("bad", !past);
  say(error, board.error ? (past ? `The last restart: ${board.error}` : board.error) : "");
  const { last, plan } = board;
  const parts = [board.recipe, board.state];
  if (known(last.loss)) parts.push(`loss ${fixed(last.loss, 3)}`);
  if (plan) parts.push(`${percent(last.step / plan.steps, 0)}`);
  document.title = `${parts.join(" · ")} · beit`;
  const worker = board.worker_pid ? `, worker ${board.worker_pid}` : "";
  say(byId("about"), `run directory ${board.run} · shards ${board.shards} · ${board.device} · beit-daemon ${board.version} · ` +
    `process ${board.pid}${worker} · up ${duration(now() - board.started_at)}`);
  say(byId("plan"), plan?.text ?? "The worker has not made it yet.");
}

/** The daemon's own sentence while there is no progress; else the age of the last step, which grows as one looks. */
function sentence(board) {
  if (!board.ready || !known(board.last.last_step_at)) return `${capital(board.readiness)}.`;
  return `Training: step ${count(board.last.step)} ended ${age(now() - board.last.last_step_at)} ago.`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function showProgress(board) {
  const { last, plan } = board;
  if (!plan) return say(byId("progress-text"), "The worker is making its plan.");
  const bar = byId("progress");
  bar.max = Math.max(1, plan.steps);
  bar.value = Math.min(last.step, plan.steps);
  const parts = [`step ${count(last.step)} of ${count(plan.steps)}`, percent(last.step / Math.max(1, plan.steps))];
  if (known(board.eta_seconds) && last.step < plan.steps && board.state === "running") {
    parts.push(`${duration(board.eta_seconds)} left, done about ${clock(now() + board.eta_seconds)}`);
  }
  say(byId("progress-text"), parts.join(" · "));
}

/** The numbers that matter most; a note says what is behind one, an alarm that it wants to be looked at. */
function numbers(board) {
  const { last, plan } = board;
  const trained = known(last.last_step_at);
  const saved = last.checkpoint;
  const corrupt = sum(last.loader.corrupt);
  const restarts = sum(board.restarts);
  const list = [
    ["loss", trained ? fixed(last.loss, 4) : "–", known(last.loss) || !trained ? "" : "not a number", trained && !known(last.loss)],
    ["accuracy", trained ? percent(last.mlm_acc, 2) : "–", "of masked"],
    ["samples/s", trained ? rate(board.samples_per_second) : "–", plan ? `${count(plan.global_batch)} a step` : ""],
    ["epoch", trained ? count(last.epoch) : "–", plan ? `of ${count(plan.samples)} samples` : ""],
    ["learning rate", trained ? small(last.lr) : "–", ""],
    ["gradient norm", trained ? fixed(last.grad_norm, 3) : "–", ""],
    ["checkpoint", known(saved.at) ? age(now() - saved.at) : "none yet", known(saved.at) ? `ago, step ${count(saved.step)}` : ""],
    ["restarts", count(restarts), causes(board.restarts)],
    ["corrupt", count(corrupt), causes(last.loader.corrupt) || "samples", corrupt > 0],
  ];
  const lived = sum(board.time_seconds);
  if (lived > 0) list.push(["goodput", percent(board.time_seconds.productive / lived), "of its time"]);
  if (known(last.mfu)) list.push(["MFU", percent(last.mfu), "of the devices' peak"]);
  return list;
}

export function showNumbers(board) {
  rows(byId("numbers"), numbers(board), () => {
    const [dt, value, note] = [make("dt"), make("span"), make("span", { class: "note" })];
    return { root: make("div", {}, dt, make("dd", {}, value, note)), dt, value, note };
  }, (row, [name, value, note, alarm]) => {
    row.root.dataset.number = name;
    row.root.classList.toggle("alarm", Boolean(alarm));
    say(row.dt, name);
    say(row.value, value);
    say(row.note, note || "\u00a0");
  });
}

export function showRanks(board) {
  const most = Math.max(1, ...board.last.ranks.map((rank) => rank.queue_depth));
  rows(byId("ranks"), board.last.ranks, () => {
    const cells = ["", "", "num", "num"].map((name) => make("td", name ? { class: name } : {}));
    const [bar, text] = [make("div"), make("span", { class: "small" })];
    const root = make("tr", {}, ...cells, make("td", {}, make("div", { class: "level" }, make("div", { class: "track", "aria-hidden": "true" }, bar), text)));
    return { root, cells, bar, text };
  }, (row, rank) => {
    const [number, doing, since, waited] = row.cells;
    say(number, String(rank.rank));
    say(doing, DOING[rank.stage] ?? rank.stage);
    say(since, `${fixed(rank.stage_seconds, 1)} s`);
    say(waited, `${fixed(rank.data_wait_seconds, 1)} s`);
    row.bar.style.width = `${100 * Math.min(1, rank.queue_depth / (rank.queue_slots || most))}%`;
    say(row.text, rank.queue_slots ? `${rank.queue_depth} of ${rank.queue_slots}` : String(rank.queue_depth));
  });
}

// The pipeline at an earlier look, so that rates are those of the last stretch.
let passed = { at: 0, flows: {} };
let rates = {};

export function showPipeline(board) {
  const flows = Object.entries(board.last.pipeline ?? {});
  byId("pipeline-card").hidden = flows.length === 0;
  const at = board.reported_at ?? now();
  if (at - passed.at >= 2) {
    for (const [stage, flow] of flows) {
      const grown = flow.items_out - (passed.flows[stage]?.items_out ?? Infinity);
      rates[stage] = grown >= 0 ? grown / (at - passed.at) : NaN;
    }
    passed = { at, flows: Object.fromEntries(flows) };
  }
  const order = ["read", "view", "batch", "step", "checkpoint"];
  flows.sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  rows(byId("pipeline"), flows, () => {
    const cells = [make("th", { scope: "row" }), ...Array.from({ length: 4 }, () => make("td", { class: "num" }))];
    return { root: make("tr", {}, ...cells), cells };
  }, (row, [stage, flow]) => {
    const texts = [stage, count(flow.items_out), rate(rates[stage]), count(flow.in_progress), known(flow.last_at) ? `${age(now() - flow.last_at)} ago` : "–"];
    texts.forEach((text, index) => say(row.cells[index], text));
  });
}

const LOADER = ["read", "entropy", "idct", "jitter", "resize", "mask", "handoff", "idle"];

// Thread seconds of the loader at the last look, so that shares are those of the last stretch.
let before = { steps: -1, seconds: {} };
let shares = [];

export function showStages(board) {
  const { stage_seconds: seconds } = board.last.loader;
  const names = LOADER.filter((name) => name in seconds);
  if (names.length === 0) return;
  const grown = names.map((name) => Math.max(0, seconds[name] - (before.seconds[name] ?? 0)));
  const total = grown.reduce((all, value) => all + value, 0);
  if (total >= 0.5) {
    shares = names.map((name, index) => [name, grown[index] / total]);
    before = { steps: board.last.steps_done, seconds: { ...seconds } };
  } else if (board.last.steps_done < before.steps) {
    before = { steps: -1, seconds: {} }; // another worker: it counts from 0
  }
  say(byId("stages-text"), "Where the loader's threads spend their time; much handoff or idle means that training is the limit.");
  rows(byId("stages"), shares, share, (row, [name, ratio]) => {
    say(row.name, name);
    row.bar.style.width = `${100 * ratio}%`;
    say(row.text, percent(ratio, 0));
  });
}

/** A row with a name, a bar and a number. */
function share() {
  const [name, bar, text] = [make("th", { scope: "row" }), make("div"), make("td", { class: "num" })];
  const root = make("tr", {}, name, make("td", {}, make("div", { class: "track", "aria-hidden": "true" }, bar)), text);
  return { root, name, bar, text };
}

const WENT = {
  productive: "training", start: "starting", data: "waiting for data", checkpoint: "saving", restart: "lost to deaths",
  recompute: "steps done again", paused: "paused", stop: "stopping",
};

/** What the seconds of the supervisor's life went for. */
export function showTime(board) {
  const lived = sum(board.time_seconds);
  const list = Object.keys(WENT).filter((name) => board.time_seconds[name] > 0).map((name) => [name, board.time_seconds[name]]);
  byId("time-card").hidden = list.length === 0;
  rows(byId("time"), list, share, (row, [name, seconds]) => {
    say(row.name, WENT[name]);
    row.bar.style.width = `${(100 * seconds) / lived}%`;
    say(row.text, `${duration(seconds)}`);
  });
}

export function showSaves(board) {
  const { checkpoint: saved, loader } = board.last;
  const list = [
    ["saved", `${count(saved.saved)}${saved.failed > 0 ? `, ${count(saved.failed)} failed` : ""} by this worker`],
    ["size", saved.bytes > 0 ? bytes(saved.bytes) : "–"],
    ["last save took", saved.bytes > 0 ? `${fixed(saved.seconds, 2)} s beside training` : "–"],
    ["training stood still", `${fixed(saved.blocked_seconds, 2)} s in all`],
    ["samples read", count(loader.samples)],
    ["payload read", bytes(loader.bytes)],
    ["replaced", `${count(loader.replaced)} by other samples`],
  ];
  rows(byId("saves"), list.flat(), (index) => ({ root: make(index % 2 === 0 ? "dt" : "dd") }), (row, text) => say(row.root, text));
}

export class Events {
  constructor() {
    this.list = [];
  }

  set(events) {
    this.list = events.slice(-50);
  }

  add(event) {
    const last = this.list.at(-1);
    if (last && (last.at > event.at || (last.at === event.at && last.text === event.text))) return;
    this.list = [...this.list.slice(-49), event];
  }

  show() {
    rows(byId("events"), this.list.toReversed(), () => {
      const [time, text] = [make("time"), make("span")];
      return { root: make("li", {}, time, text), time, text };
    }, (row, event) => {
      row.time.dateTime = new Date(event.at * 1000).toISOString();
      row.time.title = clock(event.at);
      say(row.time, `${age(now() - event.at)} ago`);
      say(row.text, event.text);
    });
  }
}

/** Fits the children of `parent` to a list: old ones are kept and only refilled. */
const kept = new WeakMap();
function rows(parent, list, create, fill) {
  const have = kept.get(parent) ?? [];
  kept.set(parent, have);
  while (have.length > list.length) have.pop().root.remove();
  list.forEach((item, index) => {
    if (!have[index]) {
      have[index] = create(index);
      parent.append(have[index].root);
    }
    fill(have[index], item);
  });
}
