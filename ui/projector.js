// The projector: its state, its position in each partition, and its last ten minutes.

import { h, replace } from './dom.js';
import { count, plural } from './format.js';
import { plot, spark } from './plot.js';

const WORDS = {
  starting: 'Starting: the store is being opened and compared with the log.',
  running: 'Running.',
  waiting: 'Waiting: it retries, nothing is lost.',
  halted: 'Halted until somebody acts. Reads continue.',
  stopped: 'Stopped.',
};

export function projector(state) {
  const what = h('div', { class: 'what' });
  const partitions = h('tbody', {});
  const workers = h('tbody', {});
  const several = h('div', { hidden: true },
    h('h2', {}, 'Workers'),
    table('Workers', 'workers', ['Worker', 'Slices', 'Lag', 'Busy'], workers));
  const arriving = plot('Arriving', 'records per second', 'arriving');
  const applied = plot('Applied', 'records per second', 'applied');
  const lag = plot('Lag', 'records', 'lag');
  const element = h('section', { class: 'list' },
    h('div', { class: 'head' }, h('h1', {}, 'Projector')),
    what,
    h('h2', { class: 'unseen' }, 'The last ten minutes'),
    h('div', { class: 'plots' }, arriving.element, applied.element, lag.element),
    h('h2', {}, 'Partitions of the log'),
    table('Partitions of the log', 'partitions', ['Partition', 'First offset', 'Next to apply', 'End of the log', 'Lag', 'Last ten minutes'], partitions),
    several);
  const unwatch = state.watch(draw);

  function draw(now) {
    const words = now.why ? `${WORDS[now.state]} ${now.why}` : WORDS[now.state];
    replace(what,
      h('p', { class: `big ${now.state}` }, h('span', { class: 'dot', 'aria-hidden': 'true' }), words),
      now.reasons.length > 0 && h('div', { class: 'trouble' }, h('h2', {}, 'Not ready'), h('ul', {}, now.reasons.map((reason) => h('li', {}, reason)))),
      now.notes.length > 0 && h('ul', { class: 'note' }, now.notes.map((note) => h('li', {}, note))),
      h('dl', { class: 'facts' }, h('div', {}, h('dt', {}, 'Log'), h('dd', { class: 'mono' }, now.log ?? 'not reached yet')), h('div', {}, h('dt', {}, 'Version'), h('dd', {}, now.version)), h('div', {}, h('dt', {}, 'Partitions'), h('dd', {}, count(now.partitions.length)))));
    const { moments } = now;
    arriving.set(rates(moments, 'end', now.every));
    applied.set(rates(moments, 'next', now.every));
    lag.set(moments.map((moment) => [moment.at, sum(moment.end) - sum(moment.next)]));
    several.hidden = now.workers.length < 2;
    replace(workers, now.workers.map((worker) => {
      // `read` keeps 0.0 as it is written.
      const busy = Number(JSON.stringify(worker.busy));
      return h('tr', {}, h('td', { class: 'number' }, count(worker.worker)), h('td', { class: 'number' }, `${worker.first_slice} \u2013 ${worker.last_slice}`), h('td', { class: `number ${worker.lag ? 'behind' : ''}` }, count(worker.lag)), h('td', {}, h('meter', { value: busy, 'aria-label': `Worker ${worker.worker}: busy` }), ` ${Math.round(busy * 100)}\u00a0%`));
    }));
    replace(partitions, now.partitions.map((partition) => {
      const behind = moments.map((moment) => Math.max(0, (moment.end[partition.partition] ?? 0) - (moment.next[partition.partition] ?? 0)));
      return h('tr', {}, [partition.partition, partition.first, partition.next, partition.end].map((number) => h('td', { class: 'number' }, count(number))), h('td', { class: `number ${partition.lag ? 'behind' : ''}` }, count(partition.lag)), h('td', {}, spark(behind, `lag ${plural(partition.lag, 'record')} now, at most ${count(Math.max(0, ...behind))}`)));
    }));
  }

  return {
    title: 'Projector',
    element,
    end() {
      unwatch();
      for (const one of [arriving, applied, lag]) one.end();
    },
  };
}

function table(name, kind, columns, body) {
  return h('div', { class: 'table-box', role: 'region', tabindex: '0', 'aria-label': name }, h('table', { class: kind }, h('caption', { class: 'unseen' }, name), h('thead', {}, h('tr', {}, columns.map((column) => h('th', { scope: 'col' }, column)))), body));
}

const sum = (offsets) => Object.values(offsets).reduce((total, offset) => total + offset, 0);

/** A second, from one moment to the next; unknown where moments are missing. */
function rates(moments, name, every) {
  return moments.slice(1).map((moment, i) => {
    const before = moments[i];
    const took = moment.at - before.at;
    const same = Object.keys(moment[name]).length === Object.keys(before[name]).length;
    const known = same && took > 0 && took < 3 * every;
    return [moment.at, known ? Math.max(0, ((sum(moment[name]) - sum(before[name])) * 1000) / took) : undefined];
  });
}
