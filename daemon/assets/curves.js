// The live curves: columns of the history, one small uPlot each, and the newest or pointed-at value beside the title.

import { byId, count, duration, fixed, known, make, percent, rate, say, small } from "./words.js";
import { getJson } from "./feed.js";

/** Points asked for, which the daemon thins to; twice as many make the page ask again. */
const POINTS = 800;

const CURVES = [
  { key: "loss", title: "loss", text: (value) => fixed(value, 4), smooth: true },
  { key: "mlm_acc", title: "masked accuracy", text: (value) => percent(value, 2), axis: shortPercent, least: 0.01, smooth: true },
  { key: "samples_per_second", title: "samples/s", text: rate },
  { key: "lr", title: "learning rate", text: small },
  { key: "grad_norm", title: "gradient norm", text: (value) => fixed(value, 3), smooth: true },
  { key: "data_wait_ratio", title: "time waiting for data", text: (value) => percent(value, 1), axis: shortPercent, least: 0.01 },
];

export class Curves {
  constructor() {
    this.clear();
    this.plots = [];
    this.reading = null;
    byId("span").addEventListener("change", () => this.read());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.rebuild());
  }

  clear() {
    this.columns = { step: [], at: [] };
    for (const curve of CURVES) this.columns[curve.key] = [];
  }

  /** Reads the whole history again. */
  async read() {
    const turn = (this.reading = Symbol("read"));
    const span = Number(byId("span").value);
    const since = span > 0 ? Math.max(0, (this.lastStep() ?? 0) - span) : 0;
    try {
      const history = await getJson(`api/v1/history?since=${since}&points=${POINTS}`);
      if (turn !== this.reading) return;
      this.clear();
      for (const key of Object.keys(this.columns)) this.columns[key] = history[key] ?? history.step.map(() => null);
      this.draw();
    } catch {
      // The feed says when there is no connection.
    }
  }

  lastStep() {
    return this.columns.step.at(-1);
  }

  /** One more point; a step that was done before means that the run went back to a checkpoint. */
  add(point) {
    const { step, at } = this.columns;
    if (at.length > 0 && point.at <= at.at(-1)) return; // read already
    while (step.length > 0 && step.at(-1) >= point.step) {
      for (const key of Object.keys(this.columns)) this.columns[key].pop();
    }
    for (const key of Object.keys(this.columns)) this.columns[key].push(point[key] ?? null);
    const span = Number(byId("span").value);
    while (span > 0 && step[0] < point.step - span) {
      for (const key of Object.keys(this.columns)) this.columns[key].shift();
    }
    if (step.length > 2 * POINTS) this.read();
    else this.draw();
  }

  /** Draws at the next frame, once for however many points came. */
  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      const empty = this.columns.step.length === 0;
      byId("curves-none").hidden = !empty;
      if (empty) return;
      if (this.plots.length === 0) this.build();
      for (const plot of this.plots) plot.show(this.columns);
    });
  }

  build() {
    this.plots = CURVES.map((curve) => new Curve(curve));
    byId("curves").replaceChildren(...this.plots.map((plot) => plot.figure));
    for (const plot of this.plots) plot.attach();
  }

  /** Colours are drawn into the canvas, so another scheme needs other plots. */
  rebuild() {
    for (const plot of this.plots) plot.remove();
    this.plots = [];
    this.draw();
  }
}

class Curve {
  constructor(curve) {
    this.curve = curve;
    this.value = make("span");
    this.box = make("div", { class: "plot", role: "img" });
    this.figure = make("figure", { "data-curve": curve.key }, make("figcaption", {}, curve.title, this.value), this.box);
  }

  attach() {
    const ask = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const line = ask("--curve");
    const axis = {
      stroke: ask("--soft"),
      font: "11px system-ui, sans-serif",
      grid: { stroke: ask("--grid"), width: 1 },
      ticks: { stroke: ask("--grid"), width: 1, size: 4 },
    };
    const { smooth, axis: label, least, text } = this.curve;
    const gap = this.curve.key === "lr" || label ? 54 : 44;
    this.plot = new uPlot(
      {
        ...this.size(),
        padding: [8, 18, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, sync: { key: "steps" }, points: { size: 7 } },
        scales: { x: { time: false }, y: { range: (_, low, high) => roomy(low, least === undefined ? high : Math.max(high, least)) } },
        axes: [
          { ...axis, size: 26, space: 60, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? count(tick) : "")) },
          { ...axis, size: gap, space: 34, values: (_, ticks) => ticks.map((tick) => (label ? label(tick) : short(tick))) },
        ],
        series: [
          {},
          // One point has no line; it is shown as a point.
          { stroke: smooth ? ask("--curve-faint") : line, width: smooth ? 1 : 1.75, points: { show: (plot) => plot.data[0].length < 3 } },
          { show: Boolean(smooth), stroke: line, width: 2, points: { show: false } },
        ],
        hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx)] },
      },
      [[], [], []],
      this.box,
    );
    this.text = text;
    this.watch = new ResizeObserver(() => this.plot.setSize(this.size()));
    this.watch.observe(this.box);
  }

  size() {
    return { width: Math.max(120, this.box.clientWidth), height: Math.max(80, this.box.clientHeight) };
  }

  show(columns) {
    const values = columns[this.curve.key];
    this.figure.hidden = !values.some(known);
    if (this.figure.hidden) return;
    this.data = [columns.step, values];
    const smoothed = this.curve.smooth ? smoothing(values) : values.map(() => null);
    this.plot.setData([columns.step, values, smoothed]);
    this.tell(this.plot.cursor.idx);
  }

  /** The value under the cursor, else the newest. */
  tell(index) {
    if (!this.data) return;
    const [steps, values] = this.data;
    const pointed = known(index) && index < steps.length;
    const at = pointed ? index : steps.length - 1;
    say(this.value, pointed ? `step ${count(steps[at])}: ${this.text(values[at])}` : this.text(values[at]));
    if (pointed) return;
    const seen = values.filter(known);
    const range = `from ${this.text(Math.min(...seen))} to ${this.text(Math.max(...seen))}`;
    this.box.setAttribute(
      "aria-label",
      `${this.curve.title} over steps ${steps[0]} to ${steps.at(-1)}: now ${this.text(values.at(-1))}, ${range}`,
    );
  }

  remove() {
    this.watch.disconnect();
    this.plot.destroy();
    this.figure.remove();
  }
}

/** Exponential average over about a fortieth of the curve, unbiased at its beginning. */
function smoothing(values) {
  const keep = 1 - 1 / Math.max(2, Math.min(25, values.length / 40));
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    if (!known(value)) return null;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}

/** A range with a little air, also for a curve that is flat or empty. */
function roomy(low, high) {
  if (!known(low) || !known(high)) return [0, 1];
  const air = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - air < 0 ? 0 : low - air, high + air];
}

function shortPercent(ratio) {
  return `${Number((100 * ratio).toPrecision(3))} %`;
}

/** An axis label in few characters. */
function short(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(Number.isInteger(value / 10 ** Math.floor(Math.log10(size))) ? 0 : 1);
  return size >= 1000 ? count(value) : String(Number(value.toPrecision(4)));
}
