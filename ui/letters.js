// Dead letters: invalid records, whole, with the reason.

import { read } from './api.js';
import { h, replace, say } from './dom.js';
import { eventTime, plural, size, timeOfDay, visible } from './format.js';
import { body, lazily } from './operation.js';

const FIRST = '/v1/dead-letters?limit=50';

export function letters() {
  const rows = h('tbody', {});
  const told = h('p', { class: 'told' });
  const next = h('button', { type: 'button', hidden: true, click: () => load(next.dataset.next) }, 'More');
  const table = h('table', { class: 'letters' }, h('caption', { class: 'unseen' }, 'Dead letters'), h('thead', {}, h('tr', {}, ['Position', 'Arrived (UTC)', 'Reason', 'Record'].map((name) => h('th', { scope: 'col' }, name)))), rows);
  const element = h('section', { class: 'list' },
    h('div', { class: 'head' }, h('h1', {}, 'Dead letters'), h('button', { type: 'button', click: () => { replace(rows); load(FIRST); } }, 'Reload')),
    h('p', { class: 'lead' }, 'Invalid records of the log, kept whole. They change no document.'),
    h('div', { class: 'table-box', role: 'region', tabindex: '0', 'aria-label': 'Dead letters' }, table),
    h('div', { class: 'foot' }, told, next));
  const abort = new AbortController();
  load(FIRST);

  async function load(path) {
    try {
      const page = await read(path, { signal: abort.signal });
      rows.append(...page.value.dead_letters.map(line));
      next.hidden = !page.next;
      next.dataset.next = page.next ?? '';
      const number = rows.childElementCount;
      table.hidden = number === 0;
      replace(told, number ? `${plural(number, 'dead letter')}${page.next ? ' so far' : ''}.` : 'No dead letters: every record of the log is valid.');
      if (path !== FIRST) say(`${plural(number, 'dead letter')} shown`);
    } catch (error) {
      if (!abort.signal.aborted) replace(told, `Cannot read the dead letters: ${error.message}`);
    }
  }

  return { title: 'Dead letters', element, end: () => abort.abort() };
}

const shownBytes = (value) => (value === null ? '(nothing)' : typeof value === 'object' ? `(base64) ${value.base64}` : visible(value));

function line(letter) {
  return h('tr', {},
    h('td', { class: 'mono' }, letter.position),
    h('td', { class: 'c-time' }, letter.arrived ? timeOfDay(eventTime(letter.arrived)) : 'unknown'),
    h('td', {}, h('span', { class: 'reason' }, letter.reason), h('div', { class: 'detail' }, visible(letter.detail))),
    h('td', {}, lazily(summary(letter), () => record(letter))));
}

function summary(letter) {
  const bytes = letter.value_base64 === null ? undefined : bytesOf(letter.value_base64).length;
  return [h('span', { class: 'faint' }, 'key '), h('span', { class: 'mono' }, shownBytes(letter.key).slice(0, 60)), h('span', { class: 'faint' }, bytes === undefined ? ' \u00b7 no value' : ` \u00b7 ${size(bytes)}`), letter.unsent && h('span', { class: 'bad' }, ' \u00b7 not in the dead-letter topic')];
}

function record(letter) {
  const headers = Object.entries(letter.headers).flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((one) => [name, one]));
  return h('div', {},
    letter.unsent && h('p', { class: 'trouble' }, `The dead-letter topic refused it: ${visible(letter.unsent)}`),
    headers.length > 0 && h('dl', { class: 'facts small' }, headers.map(([name, value]) => h('div', {}, h('dt', {}, visible(name)), h('dd', {}, shownBytes(value))))),
    letter.value_base64 === null ? h('p', { class: 'faint' }, 'A tombstone: no value.') : value(bytesOf(letter.value_base64)));
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

function value(bytes) {
  try {
    return body(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    return h('div', {}, h('p', { class: 'note' }, 'Not UTF-8; as hexadecimal:'), body(hex(bytes.subarray(0, 4096))));
  }
}

function hex(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const digits = row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const text = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${digits.padEnd(47)}  ${text}`);
  }
  return lines.join('\n');
}
