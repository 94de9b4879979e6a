// Numbers and times as people read them, and the few DOM helpers every part uses. Text is only ever set as text.

export const byId = (id) => document.getElementById(id);

/** Makes an element; children are nodes or strings, attributes are set as attributes. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Sets text only where it differs, so that screen readers and selections are left alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const known = (value) => typeof value === "number" && Number.isFinite(value);

export function fixed(value, digits) {
  return known(value) ? value.toFixed(digits) : "–";
}

export function percent(ratio, digits = 1) {
  return known(ratio) ? `${(100 * ratio).toFixed(digits)} %` : "–";
}

export function count(value) {
  return known(value) ? Math.round(value).toLocaleString("en").replaceAll(",", "\u202f") : "–";
}

export function rate(value) {
  if (!known(value)) return "–";
  return value < 100 ? value.toFixed(1) : count(value);
}

export function small(value) {
  return known(value) ? value.toExponential(2) : "–";
}

export function bytes(value) {
  if (!known(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** `12 s`, `3 min 5 s`, `2 h 4 min`, `3 d 4 h`. */
export function duration(seconds) {
  if (!known(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes > 0) return `${minutes} min ${whole % 60} s`;
  return `${whole} s`;
}

/** One unit is enough for how long ago something was: `75 s`, `12 min`, `30 h`, `3 d`. */
export function age(seconds) {
  if (!known(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 100) return `${whole} s`;
  if (whole < 6000) return `${Math.round(whole / 60)} min`;
  return whole < 172800 ? `${Math.round(whole / 3600)} h` : `${Math.round(whole / 86400)} d`;
}

/** Time of day, with the date when it is not today. */
export function clock(at) {
  const time = new Date(at * 1000);
  const today = time.toDateString() === new Date().toDateString();
  return time.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

// The daemon's clock may differ from the browser's; ages are taken by the daemon's.
let clockOffset = 0;

/** Learns the difference from an answer's Date header, which has whole seconds. */
export function setClock(dateHeader) {
  const there = Date.parse(dateHeader ?? "");
  if (Number.isNaN(there)) return;
  const offset = (there - Date.now()) / 1000;
  clockOffset = Math.abs(offset) < 2 ? 0 : offset;
}

/** Now by the daemon's clock, in seconds since 1970. */
export const now = () => Date.now() / 1000 + clockOffset;
