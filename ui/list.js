// The list of operations: counts by status, filters, pages, rows that move.

import { follow, read } from './api.js';
import { h, replace, s, say, throttle } from './dom.js';
import { GLYPHS, STATUSES, ago, count, documentTime, duration, isGood, isTerminal, plural, timeOfDay, visible } from './format.js';

const LIMIT = 100;
const FILTERS = [
  { name: 'cluster_id', label: 'Cluster', size: 8 },
  { name: 'method', label: 'Method', choices: ['POST', 'PUT', 'PATCH', 'DELETE'] },
  { name: 'uri_prefix', label: 'URI begins with', size: 22 },
  { name: 'rollback_result', label: 'Rollback', choices: ['completed', 'failed', 'none'] },
  { name: 'occurred_from', label: 'Created from (UTC)', type: 'datetime-local' },
  { name: 'occurred_to', label: 'Created before (UTC)', type: 'datetime-local' },
  { name: 'order', label: 'Order', choices: ['oldest'], first: 'newest' },
];

export function list(query, state) {
  const params = new URLSearchParams([...query].filter(([name]) => name === 'status' || FILTERS.some((filter) => filter.name === name)));
  const element = h('section', { class: 'list' });
  const counts = h('div', { class: 'counts' });
  const rows = h('tbody', { role: 'rowgroup' });
  const told = h('p', { class: 'told' });
  const older = h('button', { type: 'button', click: () => turn(1) }, 'Next page');
  const newer = h('button', { type: 'button', click: () => turn(-1) }, 'Previous page');
  const live = h('button', { type: 'button', class: 'live', 'aria-pressed': 'true', click: toggle }, h('span', { class: 'dot', 'aria-hidden': 'true' }), 'Live');
  const form = filterForm(params, changed);
  // The links of the pages up to this one, so that there is a way back.
  let pages = [undefined];
  let next;
  let shown = new Map();
  let waiting = new Map();
  let stop;
  let request;
  let paused = false;
  let position;

  replace(element,
    h('div', { class: 'head' }, h('h1', {}, 'Operations'), live),
    counts,
    form,
    h('div', { class: 'table-box' }, h('table', { class: 'operations', role: 'table' }, h('caption', { class: 'unseen' }, 'Operations'), head(), rows)),
    h('div', { class: 'foot' }, told, h('div', { class: 'pages' }, newer, older)));

  const unwatch = state.watch((now) => drawCounts(counts, now.operations, params, pick));
  const flush = throttle(400, apply);
  const clock = setInterval(() => {
    for (const row of shown.values()) row.tick();
  }, 5000);
  load();

  function pick(status) {
    const chosen = params.getAll('status');
    params.delete('status');
    const left = status === undefined ? [] : chosen.includes(status) ? chosen.filter((one) => one !== status) : [...chosen, status];
    for (const one of left) params.append('status', one);
    changed();
  }

  function changed() {
    const text = params.toString();
    history.replaceState(null, '', `#/operations${text ? `?${text}` : ''}`);
    pages = [undefined];
    if (state.now) drawCounts(counts, state.now.operations, params, pick);
    load();
  }

  function turn(by) {
    pages = by > 0 ? [...pages, next] : pages.slice(0, -1);
    load().then(() => {
      element.querySelector('h1').scrollIntoView();
      say(`Page ${pages.length}, ${plural(shown.size, 'operation')}`);
    });
  }

  function filters() {
    const wanted = new URLSearchParams(params);
    for (const name of ['occurred_from', 'occurred_to']) {
      const time = wanted.get(name);
      if (time) wanted.set(name, time.length === 16 ? `${time}:00Z` : `${time}Z`);
    }
    return wanted;
  }

  async function load(quiet = false) {
    request?.abort();
    request = new AbortController();
    const { signal } = request;
    if (!quiet) element.setAttribute('aria-busy', 'true');
    try {
      const wanted = filters();
      wanted.set('format', 'detail-list');
      wanted.set('limit', LIMIT);
      const answer = await read(pages.at(-1) ?? `/v1/operations?${wanted}`, { signal });
      next = answer.next;
      position = answer.position;
      waiting.clear();
      draw(answer.value.operations);
      if (!quiet) listen();
    } catch (error) {
      if (signal.aborted) return;
      shown.clear();
      next = undefined;
      replace(rows);
      const gone = error.status === 410;
      replace(told, gone ? 'This page of the list has expired. ' : `The list cannot be read: ${error.message} `, h('button', { type: 'button', click: () => { pages = [undefined]; load(); } }, gone ? 'First page' : 'Retry'));
      newer.hidden = older.hidden = true;
    } finally {
      if (!signal.aborted) element.removeAttribute('aria-busy');
    }
  }

  function draw(documents) {
    const before = shown;
    shown = new Map();
    for (const document of documents) {
      const row = before.get(document.operation_id) ?? makeRow();
      row.set(document);
      shown.set(document.operation_id, row);
    }
    // A row that stays keeps the focus within it.
    const held = rows.contains(globalThis.document.activeElement) ? globalThis.document.activeElement : undefined;
    replace(rows, [...shown.values()].map((row) => row.element));
    held?.focus({ preventScroll: true });
    foot();
  }

  function foot() {
    newer.hidden = pages.length === 1;
    older.hidden = !next;
    const filtered = params.size > (params.has('order') ? 1 : 0);
    const none = filtered ? 'No operation matches these filters' : 'No operations yet';
    replace(told, shown.size ? `${plural(shown.size, 'operation')}${pages.length > 1 || next ? ` on page ${pages.length}` : ''}. ` : `${none}${next ? ' so far; there are more pages' : ''}. `, waiting.size > 0 && h('button', { type: 'button', class: 'link', click: () => { flushNow(); } }, `Show ${plural(waiting.size, 'change')}`));
  }

  function listen() {
    stop?.();
    const wanted = filters();
    wanted.delete('order');
    stop = follow(`/v1/operations?${wanted}`, position, {
      event(event) {
        if (event.event === 'reset') load(true);
        else if (event.data?.operation_id) {
          waiting.set(event.data.operation_id, event);
          flush();
        }
      },
      state: (on) => live.classList.toggle('off', !on),
      // By then, a later page would show other operations.
      poll: () => !paused && pages.length === 1 && load(true),
    });
  }

  function toggle() {
    paused = !paused;
    live.setAttribute('aria-pressed', String(!paused));
    say(paused ? 'Paused' : 'Live');
    if (!paused) apply();
  }

  function flushNow() {
    const was = paused;
    paused = false;
    apply();
    paused = was;
  }

  function apply() {
    if (paused) return foot();
    let failed = 0;
    let news = 0;
    const first = pages.length === 1;
    const order = params.get('order') === 'oldest' ? 1 : -1;
    for (const [id, { event, data }] of waiting) {
      const row = shown.get(id);
      if (event !== 'document') {
        row?.element.remove();
        shown.delete(id);
        continue;
      }
      if (data.status === 'failed' && row?.document.status !== 'failed') failed += 1;
      if (row) {
        row.set(data, true);
        continue;
      }
      const place = first && spot(data, order);
      if (!place) continue;
      const added = makeRow();
      added.set(data, true);
      place.before ? place.before.element.before(added.element) : rows.append(added.element);
      shown.set(id, added);
      news += 1;
    }
    waiting.clear();
    while (shown.size > LIMIT) {
      const last = rows.lastElementChild;
      shown.delete(last.dataset.id);
      last.remove();
    }
    foot();
    if (news || failed) announce(news, failed);
  }

  /** Where a new operation belongs on this page, if it does. */
  function spot(document, order) {
    const mine = [documentTime(document.occurred_time), document.operation_id];
    for (const element of rows.children) {
      const other = shown.get(element.dataset.id);
      const theirs = [documentTime(other.document.occurred_time), other.document.operation_id];
      const compared = mine[0] - theirs[0] || (mine[1] < theirs[1] ? -1 : 1);
      if (compared * order < 0) return { before: other };
    }
    return next ? undefined : {};
  }

  return {
    title: 'Operations',
    element,
    end() {
      unwatch();
      stop?.();
      request?.abort();
      flush.stop();
      clearInterval(clock);
    },
  };
}

let spokenAt = -Infinity;
/** At most every ten seconds: a busy ledger must not talk without end. */
function announce(news, failed) {
  if (performance.now() - spokenAt < 10_000) return;
  spokenAt = performance.now();
  say([news && `${plural(news, 'new operation')}`, failed && `${plural(failed, 'operation')} failed`].filter(Boolean).join(', '));
}

const COLUMNS = ['Status', 'Operation', 'Request', 'Clusters', 'Rollback', 'Created (UTC)', 'Last update'];

function head() {
  return h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, COLUMNS.map((name) => h('th', { scope: 'col', role: 'columnheader' }, name))));
}

/** `none` means that a response is missing: it may still arrive, or never will. */
export function rollbackWord({ status, rollbacks }) {
  if (rollbacks.result !== 'none') return rollbacks.result;
  return isTerminal(status) ? 'unanswered' : 'pending';
}

export function badge(status) {
  return h('span', { class: `status ${status}` }, h('span', { class: 'glyph', 'aria-hidden': 'true' }, GLYPHS[status] ?? '?'), status);
}

function makeRow() {
  const element = h('tr', { role: 'row' });
  const updated = h('span', {});
  const row = { element, document: undefined, set, tick };
  let text;

  function set(document, moved = false) {
    const now = JSON.stringify(document);
    if (now === text) return;
    text = now;
    row.document = document;
    element.dataset.id = document.operation_id;
    const cell = (kind, ...content) => h('td', { class: kind, role: 'cell' }, content);
    const accepted = documentTime(document.occurred_time);
    const { method, uri } = document.request;
    const link = element.querySelector('a') ?? h('a', { href: `#/operations/${encodeURIComponent(document.operation_id)}` }, document.operation_id);
    const focused = link === globalThis.document.activeElement;
    replace(element,
      cell('c-status', badge(document.status)),
      cell('c-id', link),
      cell('c-request', h('div', { class: 'clamp', title: visible(uri).slice(0, 1000) }, h('span', { class: 'method' }, method), ' ', h('span', { class: 'uri' }, visible(uri)))),
      cell('c-clusters', clusters(document)),
      cell('c-rollback', document.rollbacks ? h('span', { class: `rollback ${document.rollbacks.result}` }, `\u21b6 ${rollbackWord(document)}`) : h('span', { class: 'faint' }, '\u2013')),
      cell('c-time', timeOfDay(accepted)),
      cell('c-updated', updated));
    if (focused) link.focus({ preventScroll: true });
    tick();
    if (!moved) return;
    element.classList.remove('moved');
    void element.offsetWidth;
    element.classList.add('moved');
  }

  function tick() {
    const { document } = row;
    const from = documentTime(document.occurred_time);
    const to = documentTime(document.last_update_time);
    updated.textContent = isTerminal(document.status) ? `after ${duration(to - from) === '0 ms' ? '< 1 s' : duration(to - from)}` : ago(to);
    updated.title = timeOfDay(to);
  }
  return row;
}

/** A cell for each request to a cluster: a good response, a bad one, or none yet. */
function clusters(document) {
  const lanes = document.target_clusters;
  if (!lanes.length) return h('span', { class: 'faint' }, '\u2013');
  const of = (lane) => (!lane.response ? 'none' : lane.response.status_code === undefined ? 'odd' : isGood(lane.response.status_code) ? 'good' : 'bad');
  const results = lanes.map(of);
  const tally = (kind, text) => {
    const number = results.filter((one) => one === kind).length;
    return number ? `${count(number)} ${text}` : undefined;
  };
  const words = [tally('good', 'ok'), tally('bad', 'refused'), tally('odd', 'without a code'), tally('none', isTerminal(document.status) ? 'no response' : 'pending')].filter(Boolean).join(', ');
  const most = 24;
  return h('span', { class: 'lanes' },
    s('svg', { width: Math.min(lanes.length, most) * 9, height: 12, role: 'img', 'aria-label': words }, s('title', {}, words), results.slice(0, most).map((kind, i) => s('rect', { class: `cell ${kind}`, x: i * 9 + 0.5, y: kind === 'bad' ? 0.5 : 2.5, width: 7, height: kind === 'bad' ? 11 : 7, rx: 1.5 }))),
    lanes.length > most && h('span', { class: 'faint' }, ` +${count(lanes.length - most)}`));
}

/** The statuses as switches, with how many there are, over their shares. */
function drawCounts(place, counts, params, pick) {
  const chosen = params.getAll('status');
  const all = counts ? STATUSES.reduce((sum, status) => sum + counts[status], 0) : undefined;
  if (!place.childElementCount) {
    const button = (status) => h('button', { type: 'button', class: `count ${status ?? 'all'}`, 'aria-pressed': 'false', click: () => pick(status) }, h('span', { class: 'glyph', 'aria-hidden': 'true' }, status ? GLYPHS[status] : '\u2211'), h('span', { class: 'word' }, status ?? 'all'), h('b', {}));
    const shares = s('svg', { class: 'shares', width: '100%', height: 4, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, STATUSES.map((status) => s('rect', { class: status, height: 4, y: 0 })));
    replace(place, h('div', { role: 'group', 'aria-label': 'Filter by status' }, button(undefined), STATUSES.map(button)), shares);
  }
  [undefined, ...STATUSES].forEach((status, i) => {
    const button = place.firstElementChild.children[i];
    const number = status ? counts?.[status] : all;
    button.setAttribute('aria-pressed', String(status ? chosen.includes(status) : !chosen.length));
    button.lastElementChild.textContent = number === undefined ? '\u2026' : count(number);
  });
  let x = 0;
  for (const [i, status] of STATUSES.entries()) {
    const share = all ? (counts[status] / all) * 100 : 0;
    const bar = place.querySelector('.shares').children[i];
    bar.setAttribute('x', `${x}%`);
    bar.setAttribute('width', `${share}%`);
    x += share;
  }
}

function filterForm(params, changed) {
  const later = throttle(350, changed);
  const set = (name, value) => {
    if (value) params.set(name, value);
    else params.delete(name);
    later();
  };
  const field = ({ name, label, choices, first = 'any', type = 'text', size }) => {
    const id = `filter-${name}`;
    const input = choices
      ? h('select', { id, change: (event) => set(name, event.target.value) }, h('option', { value: '' }, first), choices.map((choice) => h('option', { value: choice }, choice)))
      : h('input', { id, type, size, step: type === 'datetime-local' ? 1 : undefined, spellcheck: 'false', autocomplete: 'off', [type === 'text' ? 'input' : 'change']: (event) => set(name, event.target.value.trim()) });
    input.value = params.get(name) ?? '';
    return h('div', { class: 'field' }, h('label', { for: id }, label), input);
  };
  const clear = h('button', { type: 'button', class: 'link', click: () => {
    for (const name of [...params.keys()]) params.delete(name);
    for (const input of form.querySelectorAll('input, select')) input.value = '';
    changed();
  } }, 'Clear');
  const form = h('form', { 'aria-label': 'Filters', submit: (event) => event.preventDefault() }, FILTERS.map(field), clear);
  // On a narrow screen the filters are folded under a heading; elsewhere they are open.
  const used = FILTERS.some(({ name }) => params.has(name));
  return h('details', { class: 'filters', open: used || !matchMedia('(max-width: 760px)').matches }, h('summary', {}, 'Filters'), form);
}
