// The fixed samples: what the model is shown, what is hidden from it, and what it makes of that.

import { byId, clock, count, make, percent, say } from "./words.js";
import { getJson } from "./feed.js";

/** Between two looks for newer pictures. */
const LOOK_MS = 10000;

const SHOTS = [
  { kind: "view", has: "view", label: "the view", alt: (name) => `${name} as the model's augmented view` },
  { kind: "masked", has: "masked_view", label: "what the model sees", alt: (name) => `${name} with its masked patches grey` },
  { kind: "true", has: "true", label: "its true tokens, decoded", alt: (name) => `${name} decoded from its true visual tokens` },
  { kind: "predicted", has: "predicted", label: "with the model's guesses", alt: (name) => `${name} decoded with the tokens that the model predicts for the masked patches` },
];

export class Pictures {
  constructor() {
    this.step = null;
    this.lookedAt = -Infinity;
  }

  /** Looks for newer pictures, now and then. */
  async look(eager = false) {
    if (document.hidden || (!eager && performance.now() - this.lookedAt < LOOK_MS)) return;
    this.lookedAt = performance.now();
    try {
      const index = await getJson("api/v1/samples");
      if (index.step === this.step && index.at === this.at) return;
      this.show(index);
      this.step = index.step;
      this.at = index.at;
    } catch (error) {
      if (this.step === null && error.status) say(byId("pictures-text"), error.message);
    }
  }

  show(index) {
    const parts = [`Step ${count(index.step)}, ${clock(index.at)}.`];
    if (index.tokenizer) parts.push(`Tokens of ${index.tokenizer}.`);
    if (index.why_no_reconstruction) parts.push(`No reconstruction: ${index.why_no_reconstruction}.`.replace(/\.\.$/, "."));
    const right = index.samples.reduce((sum, sample) => sum + sample.correct, 0);
    const masked = index.samples.reduce((sum, sample) => sum + sample.masked, 0);
    const patches = index.samples.reduce((sum, sample) => sum + sample.patches, 0);
    if (masked > 0) parts.push(`${count(masked)} of ${count(patches)} patches masked, ${count(right)} of their tokens right (${percent(right / masked)}).`);
    say(byId("pictures-text"), parts.join(" "));
    byId("pictures").replaceChildren(...index.samples.map((sample, number) => this.sample(index, sample, number)));
  }

  sample(index, sample, number) {
    const name = `sample ${number + 1}`;
    const caption = make("figcaption", { title: sample.id },
      `Sample ${number + 1}: ${sample.correct} of ${sample.masked} masked tokens right (${percent(sample.correct / Math.max(1, sample.masked))})`);
    const shots = SHOTS.filter((shot) => sample[shot.has]).map((shot) => {
      const image = make("img", {
        src: `api/v1/samples/${number}/${shot.kind}.png?step=${Number(index.step)}`,
        alt: shot.alt(name),
        width: "224",
        height: "224",
        decoding: "async",
      });
      // Replaced by newer ones between the index and the picture: look again.
      image.addEventListener("error", () => this.forget(), { once: true });
      return make("li", {}, image, make("span", {}, shot.label));
    });
    return make("figure", { "data-sample": number }, caption, make("ul", { class: "shots" }, ...shots));
  }

  forget() {
    this.step = null;
  }
}
