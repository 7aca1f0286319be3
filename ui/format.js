// Times, durations, numbers and texts as an operator reads them. All in UTC.

let offset = 0;

/** Seconds east of UTC that the ledger writes the times of documents in. */
export function setOffset(seconds) {
  offset = seconds;
}

/** Milliseconds since 1970 of a document's time (its separator is a setting). */
export function documentTime(text) {
  const parts = /^(\d{4})(\d\d)(\d\d).?(\d\d)(\d\d)(\d\d)$/u.exec(text ?? '');
  if (!parts) return NaN;
  const [, year, month, day, hour, minute, second] = parts.map(Number);
  return utc(year, month - 1, day, hour, minute, second) - offset * 1000;
}

/** Milliseconds, with a fraction, of an RFC 3339 time; leap seconds as the ledger reads them. */
export function eventTime(text) {
  const parts = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/.exec(text ?? '');
  if (!parts) return NaN;
  const [, date, clock, seconds, fraction, zone] = parts;
  const leap = seconds === '60';
  const whole = Date.parse(`${date}T${clock}${leap ? '59' : seconds}${zone.toUpperCase()}`);
  return whole + (leap ? 1000 : 0) + (fraction ? Number(fraction) * 1000 : 0);
}

function utc(year, ...rest) {
  const date = new Date(0);
  date.setUTCFullYear(year, rest[0], rest[1]);
  date.setUTCHours(rest[2], rest[3], rest[4], 0);
  return date.getTime();
}

export function timeOfDay(time, digits = 0) {
  if (!Number.isFinite(time)) return '';
  const text = new Date(Math.floor(time)).toISOString();
  return text.slice(0, 10).concat(' ', text.slice(11, digits ? 20 + digits : 19));
}

const UNITS = [['d', 86_400_000], ['h', 3_600_000], ['min', 60_000], ['s', 1000]];

/** `3 d 4 h`, `2 min 5 s`, `4.2 s`, `12 ms`: two places at most. */
export function duration(milliseconds) {
  const sign = milliseconds < 0 ? '\u2212' : '';
  const all = Math.abs(milliseconds);
  if (!Number.isFinite(all)) return '';
  if (all === 0) return '0 ms';
  if (all < 0.1) return `${sign}<0.1 ms`;
  if (all < 10) return `${sign}${Number(all.toFixed(1))} ms`;
  if (all < 1000) return `${sign}${Math.round(all)} ms`;
  if (all < 60_000) return `${sign}${Number((all / 1000).toFixed(all < 10_000 ? 2 : 1))} s`;
  const at = UNITS.findIndex(([, size]) => all >= size);
  const [unit, size] = UNITS[at];
  const [below, small] = UNITS[at + 1];
  const first = Math.floor(all / size);
  const second = Math.floor((all % size) / small);
  return `${sign}${first} ${unit}${second ? ` ${second} ${below}` : ''}`;
}

/** Since a beginning, to the millisecond: `+00:01.110`, `+26:00:00.200`. */
export function elapsed(milliseconds) {
  const all = Math.round(Math.abs(milliseconds));
  const two = (number) => String(number).padStart(2, '0');
  const hours = Math.floor(all / 3_600_000);
  const rest = `${two(Math.floor(all / 60_000) % 60)}:${two(Math.floor(all / 1000) % 60)}.${String(all % 1000).padStart(3, '0')}`;
  return `${milliseconds < 0 ? '\u2212' : '+'}${hours ? `${two(hours)}:` : ''}${rest}`;
}

export function ago(time, now = Date.now()) {
  if (!Number.isFinite(time)) return '';
  const since = now - time;
  if (since < 0) return `in ${duration(-since)}`;
  if (since < 1500) return 'now';
  if (since < 60_000) return `${Math.round(since / 1000)} s ago`;
  const at = UNITS.find(([, size]) => since >= size);
  return `${count(Math.floor(since / at[1]))} ${at[0]} ago`;
}

const numbers = new Intl.NumberFormat('en');
export const count = (number) => numbers.format(number);
export const few = (number) => (number >= 100 ? count(Math.round(number)) : String(Number(number.toFixed(1))));
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// Characters that are invisible, or that change the direction of the text around them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
const NAMES = { '\n': '\u23ce', '\r': '\u27e8CR\u27e9', '\t': '\u21e5' };
const named = (c) => NAMES[c] ?? `\u27e8${c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}\u27e9`;

/** A text on one line, with invisible characters spelt out. */
export const visible = (text) => String(text ?? '').replace(UNSEEN, named);

/** A text with its line breaks, with other invisible characters spelt out. */
export const visibleLines = (text) => String(text).replace(UNSEEN, (c) => (c === '\n' || c === '\t' ? c : c === '\r' ? '' : named(c)));

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1_000_000) return `${Number((bytes / 1000).toFixed(1))} kB`;
  return `${Number((bytes / 1_000_000).toFixed(1))} MB`;
}

/** A status has a shape as well as a colour. */
export const GLYPHS = { unexecuted: '\u25cb', executing: '\u25d0', completed: '\u25cf', failed: '\u2715', canceled: '\u2298' };
export const STATUSES = Object.keys(GLYPHS);
export const isTerminal = (status) => status === 'completed' || status === 'failed' || status === 'canceled';
export const isGood = (code) => code >= 200 && code < 300;
