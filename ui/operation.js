// One operation: its picture, its document, its history.

import { Refused, follow, operationPath, parse, read } from './api.js';
import { h, replace, say, throttle } from './dom.js';
import { count, documentTime, duration, elapsed, isGood, isTerminal, plural, size, timeOfDay, visible, visibleLines } from './format.js';
import { badge, rollbackWord } from './list.js';
import { sentence, story } from './story.js';
import { timeline } from './timeline.js';

const PAGE = 500;
/** Characters of a body that are shown until the reader asks for more. */
const SHORT = 4000;

export function operation(id, _state) {
  const path = operationPath(id);
  const summary = h('div', { class: 'summary' });
  const picture = h('div', {});
  const odd = h('div', {});
  const document_ = h('div', {});
  const history = h('div', {});
  const element = h('article', { class: 'operation' },
    h('div', { class: 'head' }, h('div', {}, h('p', { class: 'over' }, h('a', { href: '#/operations' }, 'Operations'), ' /'), h('h1', { class: 'id' }, visible(id))), copyButton(id)),
    summary,
    h('section', { 'aria-labelledby': 'h-timeline' }, h('h2', { id: 'h-timeline' }, 'Timeline'), picture, odd),
    h('div', { class: 'halves' },
      h('section', { 'aria-labelledby': 'h-document' }, h('h2', { id: 'h-document' }, 'Document'), document_),
      h('section', { 'aria-labelledby': 'h-history' }, h('h2', { id: 'h-history' }, 'History'), history)));

  let etag;
  let stop;
  let timer;
  let drawn;
  let shown;
  let entries = [];
  let more;
  let ended = false;
  const abort = new AbortController();
  const { signal } = abort;
  const refresh = throttle(250, () => load().catch(failed));
  load().then(listen, failed);

  async function load() {
    const answer = await read(path, { signal, headers: etag ? { 'if-none-match': etag } : {} }).catch((error) => {
      if (error instanceof Refused && error.status === 404) return { value: null };
      throw error;
    });
    const moved = !answer.unchanged;
    if (moved) {
      etag = answer.etag;
      show(answer.value);
    }
    // Late responses change the history and not always the document.
    await loadHistory(Math.max(entries.length, PAGE));
    return answer.position;
  }

  async function loadHistory(wanted) {
    const found = [];
    let next = `${path}/events?limit=${Math.min(wanted, 1000)}`;
    try {
      while (next && found.length < wanted) {
        const page = await read(next, { signal });
        found.push(...page.value.events);
        next = page.next;
      }
    } catch (error) {
      if (!(error instanceof Refused && error.status === 404)) throw error;
      next = undefined;
    }
    more = next;
    if (found.length === entries.length && JSON.stringify(found) === JSON.stringify(entries)) return;
    entries = found;
    showHistory();
  }

  function listen(position) {
    if (signal.aborted) return;
    if (shown && isTerminal(shown.status)) return later();
    stop = follow(path, position, {
      event({ event, data }) {
        if (event === 'document') {
          // Its ETag is not known: the next read asks for all of it.
          etag = undefined;
          show(data);
        }
        refresh();
        if (data && isTerminal(data.status)) later();
      },
      state: () => {},
      poll: refresh,
    });
  }

  /** After the terminal event the stream has ended, but responses may still arrive. */
  function later() {
    stop?.();
    stop = undefined;
    timer ??= setInterval(() => !document.hidden && refresh(), 5000);
  }

  function failed(error) {
    if (signal.aborted) return;
    replace(summary, h('p', { class: 'trouble' }, `The operation cannot be read: ${error.message}`));
    timer ??= setInterval(() => !document.hidden && refresh(), 5000);
  }

  function show(value) {
    const text = JSON.stringify(value);
    if (text === drawn) return;
    const before = shown?.status;
    drawn = text;
    shown = value;
    replace(summary, value ? summarize(value) : h('p', { class: 'empty' }, 'No document: no creation of an operation with this id has arrived. This page shows it when it does.'));
    replace(document_, value ? documentView(value) : h('p', { class: 'empty' }, 'None yet.'));
    if (before && value && before !== value.status) say(`The operation is ${value.status}`);
    if (value && isTerminal(value.status) && !ended) {
      ended = true;
      if (entries.length) showHistory();
    }
  }

  function showHistory() {
    picture.firstElementChild?.end?.();
    if (!entries.length) {
      replace(picture, h('p', { class: 'empty' }, 'Nothing has been heard of it.'));
      replace(history, h('p', { class: 'empty' }, 'Empty.'));
      return;
    }
    const model = story(entries);
    const ongoing = !model.end;
    replace(picture, timeline(model, { ongoing }), facts(model));
    replace(odd, model.anomalies.length > 0 && anomalyList(model));
    replace(history, historyTable(model), more && h('button', { type: 'button', click: (event) => {
      event.target.disabled = true;
      loadHistory(entries.length + PAGE).catch(failed);
    } }, `Show ${count(PAGE)} more events`));
  }

  return {
    title: id,
    element,
    end() {
      abort.abort();
      stop?.();
      refresh.stop();
      clearInterval(timer);
      picture.firstElementChild?.end?.();
    },
  };
}

function copyButton(text) {
  const button = h('button', { type: 'button', click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
      setTimeout(() => (button.textContent = 'Copy id'), 1500);
    } catch {
      button.textContent = 'Cannot copy';
    }
  } }, 'Copy id');
  return button;
}

const pair = (name, ...value) => h('div', {}, h('dt', {}, name), h('dd', {}, value));

function summarize(value) {
  const from = documentTime(value.occurred_time);
  const to = documentTime(value.last_update_time);
  const answered = value.target_clusters.filter((lane) => lane.response).length;
  return [
    h('p', { class: 'asked' }, badge(value.status), h('span', { class: 'method' }, value.request.method), h('span', { class: 'uri' }, visible(value.request.uri))),
    h('dl', { class: 'facts' },
      value.response && pair('Outcome', code(value.response.status_code)),
      pair('Created', timeOfDay(from), ' UTC'),
      pair(isTerminal(value.status) ? 'Ended' : 'Last update', timeOfDay(to), ' UTC'),
      pair('Cluster requests', value.target_clusters.length ? `${count(answered)} of ${count(value.target_clusters.length)} have a response` : 'none'),
      value.rollbacks && pair('Rollback', h('span', { class: `rollback ${value.rollbacks.result}` }, rollbackWord(value)))),
    value.sub_status !== undefined && h('div', { class: 'sub' }, h('h2', {}, 'Sub-status'), body(value.sub_status)),
  ];
}

const code = (status) => h('span', { class: `code ${status === undefined ? 'odd' : isGood(status) ? 'good' : 'bad'}` }, status === undefined ? 'no status code' : String(status));

function facts(model) {
  const { created, end, silence } = model;
  return h('p', { class: 'note' }, [
    created && `${end ? 'Took' : 'Running for'} ${duration((end ?? model.events.at(-1)).time - created.time)}`,
    plural(model.events.length, 'event'),
    silence && silence.length > 0 && `longest silence ${duration(silence.length)}`,
    plural(model.anomalies.length, 'anomaly', 'anomalies'),
  ].filter(Boolean).join(' \u00b7 '));
}

function anomalyList(model) {
  const most = 50;
  return h('div', { class: 'anomalies' }, h('h3', {}, plural(model.anomalies.length, 'anomaly', 'anomalies')), h('ul', {}, model.anomalies.slice(0, most).map(({ kind, event, text }) => h('li', {}, h('code', {}, kind), ' ', text, ' ', event && h('a', { href: `#event-${event.index}`, click: (click) => {
    click.preventDefault();
    const row = globalThis.document.getElementById(`event-${event.index}`);
    row?.scrollIntoView({ block: 'center' });
    row?.querySelector('summary')?.focus();
  } }, `event ${event.index + 1}`)))), model.anomalies.length > most && h('p', { class: 'note' }, `and ${count(model.anomalies.length - most)} more`));
}

/** A body from outside: shown unchanged, shortened until the reader asks for all of it. */
export function body(text) {
  if (text === '') return h('p', { class: 'faint' }, 'empty');
  const pre = h('pre', { tabindex: '0' }, visibleLines(text.slice(0, SHORT)));
  const whole = text.length > SHORT && h('button', { type: 'button', class: 'link', click: (event) => {
    pre.textContent = visibleLines(text);
    event.target.remove();
  } }, `Show all ${size(new Blob([text]).size)}`);
  let parsed;
  try {
    parsed = parse(text);
  } catch {
    parsed = undefined;
  }
  const pretty = typeof parsed === 'object' && parsed !== null && text.length <= 100_000 && JSON.stringify(parsed, null, 2);
  const layout = pretty && pretty !== text && h('button', { type: 'button', class: 'link', 'aria-pressed': 'false', click: (event) => {
    const on = event.target.getAttribute('aria-pressed') === 'true';
    event.target.setAttribute('aria-pressed', String(!on));
    pre.textContent = visibleLines(on ? text : pretty);
  } }, 'Formatted');
  return h('div', { class: 'body' }, pre, (whole || layout) && h('div', { class: 'tools' }, layout, whole));
}

const asked = (request) => [h('p', { class: 'line' }, h('span', { class: 'method' }, request.method), ' ', h('span', { class: 'uri' }, visible(request.uri))), body(request.body)];

function answer(response) {
  if (!response) return h('p', { class: 'faint' }, 'No response.');
  return [h('p', { class: 'line' }, code(response.status_code)), response.body !== undefined ? body(response.body) : h('p', { class: 'faint' }, 'no body')];
}

function documentView(value) {
  const block = (title, ...content) => h('div', { class: 'block' }, h('h3', {}, title), content);
  const lane = (entry) => h('details', { class: 'lane' }, h('summary', {}, h('span', { class: 'name' }, `Cluster ${visible(entry.cluster_id)}`), ' ', h('span', { class: 'method' }, entry.request.method), ' ', h('span', { class: 'uri' }, visible(entry.request.uri)), ' ', entry.response ? code(entry.response.status_code) : h('span', { class: 'faint' }, 'no response')), h('h4', {}, 'Request'), asked(entry.request), h('h4', {}, 'Response'), answer(entry.response));
  const most = 200;
  const lanes = (entries) => [entries.slice(0, most).map(lane), entries.length > most && h('p', { class: 'note' }, `and ${count(entries.length - most)} more in the document as JSON`)];
  return [
    block('Request', asked(value.request)),
    value.response && block('Response', answer(value.response)),
    block('Cluster requests', value.target_clusters.length ? lanes(value.target_clusters) : h('p', { class: 'faint' }, 'none')),
    value.rollbacks && block(`Rollback (${value.rollbacks.result}, ${timeOfDay(documentTime(value.rollbacks.occurred_time))})`, lanes(value.rollbacks.target_clusters)),
    lazily('The document as JSON', () => body(JSON.stringify(value, null, 2))),
  ];
}

/** Details whose content is made when they are opened. */
export function lazily(title, make) {
  const details = h('details', { class: 'raw', toggle: () => details.open && details.childElementCount === 1 && details.append(make()) }, h('summary', {}, title));
  return details;
}

function arrival(event) {
  if (Number.isNaN(event.arrived)) return 'unknown';
  return `${timeOfDay(event.arrived, 3)} UTC, ${duration(Math.abs(event.arrived - event.time))} ${event.arrived < event.time ? 'before its time' : 'later'}${event.claimed ? ' (producer timestamp)' : ''}`;
}

function historyTable(model) {
  const zero = (model.created ?? model.events[0]).time;
  const flagged = new Set(model.anomalies.map((anomaly) => anomaly.event));
  const line = (event) => h('tr', { id: `event-${event.index}`, role: 'row', class: event.kind.startsWith('rollback.') && 'undoing' },
    h('td', { class: 'n', role: 'cell' }, String(event.index + 1)),
    h('td', { class: 'since', role: 'cell', title: `${timeOfDay(event.time, 3)} UTC` }, elapsed(event.time - zero)),
    h('td', { role: 'cell' }, lazily([flagged.has(event) && h('span', { class: 'warn-sign', title: 'anomaly' }, '\u26a0 '), sentence(event)], () => h('div', {},
        h('dl', { class: 'facts small' }, pair('Time', `${timeOfDay(event.time, 3)} UTC`), pair('Arrived', arrival(event)), pair('Position', event.position), pair('Source', visible(event.raw.source)), pair('Id', visible(event.raw.id))),
        body(JSON.stringify(event.raw, null, 2))))));
  return h('table', { class: 'history', role: 'table' }, h('caption', { class: 'unseen' }, 'Events in the order that decides the result'), h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, ['#', 'Time', 'Event'].map((name) => h('th', { scope: 'col', role: 'columnheader' }, name)))), h('tbody', { role: 'rowgroup' }, model.events.map(line)));
}
