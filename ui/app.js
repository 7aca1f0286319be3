// The shell: which view is shown, the search, the projector's pulse.

import { read } from './api.js';
import { h, replace } from './dom.js';
import { count, setOffset } from './format.js';
import { letters } from './letters.js';
import { list } from './list.js';
import { operation } from './operation.js';
import { projector } from './projector.js';

const main = document.getElementById('main');
const watchers = new Set();
let held;
let shown;

/** The state of the ledger: the last response, with all moments of ten minutes. */
export const state = {
  get now() {
    return held;
  },
  watch(tell) {
    watchers.add(tell);
    if (held) tell(held);
    return () => watchers.delete(tell);
  },
};

const VIEWS = {
  operations: (path, query) => (path.length ? operation(path[0], state) : list(query, state)),
  'dead-letters': () => letters(),
  projector: () => projector(state),
};

/** `#/operations/ID?query` → ['operations', 'ID'], query. */
function route() {
  const [path, query = ''] = location.hash.slice(1).split('?');
  const parts = path.split('/').filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return [parts[0] ?? 'operations', parts.slice(1), new URLSearchParams(query)];
}

function show(focus) {
  const [name, path, query] = route();
  shown?.end();
  const make = Object.hasOwn(VIEWS, name) ? VIEWS[name] : VIEWS.operations;
  shown = make(path, query);
  replace(main, shown.element);
  document.title = `${shown.title} \u2013 opledger`;
  for (const link of document.querySelectorAll('nav a[data-view]')) {
    if (link.dataset.view === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (!focus) return;
  window.scrollTo(0, 0);
  const heading = main.querySelector('h1');
  heading?.setAttribute('tabindex', '-1');
  heading?.focus({ preventScroll: true });
}

async function beat() {
  if (document.hidden) return;
  try {
    const since = held?.moments.at(-1)?.at ?? 0;
    const { value } = await read(`/projector?since=${since}`);
    const moments = [...(held?.moments ?? []), ...value.moments].slice(-300);
    held = { ...value, moments };
    setOffset(value.time_offset);
    pulse(value.reasons.length ? 'trouble' : value.state, text(held));
    for (const tell of watchers) tell(held);
  } catch {
    pulse('lost', 'no connection');
  }
}

function text(now) {
  if (now.state !== 'running') return now.state;
  const lag = now.partitions.reduce((sum, partition) => sum + partition.lag, 0);
  return lag ? `lag ${count(lag)}` : now.reasons.length ? 'not ready' : 'up to date';
}

function pulse(kind, words) {
  document.getElementById('pulse').dataset.state = kind;
  const place = document.getElementById('pulse-text');
  if (place.textContent !== words) replace(place, h('span', { class: 'unseen' }, 'Projector: '), words);
}

const find = document.getElementById('find');
const id = document.getElementById('find-id');
find.addEventListener('submit', (event) => {
  event.preventDefault();
  const wanted = id.value.trim();
  if (!wanted) return;
  location.hash = `#/operations/${encodeURIComponent(wanted)}`;
  id.value = '';
});

document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.('input, select, textarea')) return;
  event.preventDefault();
  id.focus();
});

document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});

window.addEventListener('hashchange', () => show(true));
document.addEventListener('visibilitychange', beat);
beat().then(() => {
  show(false);
  setInterval(beat, 2000);
});
