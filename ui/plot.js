// A small plot of one quantity over the last minutes: one colour, with its greatest
// value and the value under the pointer as text.

import { h, s, replace } from './dom.js';
import { few, timeOfDay } from './format.js';

const HEIGHT = 56;

/** `points` are [time, value], value undefined where nothing is known. */
export function plot(title, unit, kind) {
  const now = h('b', {});
  const told = h('span', { class: 'faint' });
  const box = h('div', { class: 'plot-box' });
  const element = h('figure', { class: `plot ${kind}` }, h('figcaption', {}, h('span', {}, title), now, told), box);
  let points = [];
  let span = 600_000;

  function draw() {
    const width = Math.max(120, box.clientWidth);
    const end = points.at(-1)?.[0] ?? Date.now();
    const most = Math.max(0, ...points.map(([, value]) => value ?? 0));
    const top = nice(most);
    const x = (time) => width - ((end - time) / span) * width;
    const y = (value) => HEIGHT - 1 - (value / top) * (HEIGHT - 12);
    const runs = [[]];
    for (const [time, value] of points) {
      if (value === undefined) runs.push([]);
      else runs.at(-1).push(`${x(time).toFixed(1)} ${y(value).toFixed(1)}`);
    }
    const drawn = runs.filter((run) => run.length > 1);
    const last = points.at(-1)?.[1];
    now.textContent = last === undefined ? '\u2013' : few(last);
    told.textContent = `${unit}, at most ${few(most)} in ten minutes`;
    const line = s('line', { class: 'cross', y1: 0, y2: HEIGHT, visibility: 'hidden' });
    const picture = s('svg', { width, height: HEIGHT + 14, role: 'img', 'aria-label': `${title}: now ${now.textContent} ${unit}, at most ${few(most)} in the last ten minutes` },
      [0, 0.5, 1].map((part) => s('line', { class: 'grid', x1: 0, x2: width, y1: y(top * part), y2: y(top * part) })),
      drawn.map((run) => [s('path', { class: 'area', d: `M${run[0].split(' ')[0]} ${HEIGHT - 1}L${run.join('L')}L${run.at(-1).split(' ')[0]} ${HEIGHT - 1}z` }), s('path', { class: 'curve', d: `M${run.join('L')}` })]),
      s('text', { class: 'scale', x: 0, y: 9 }, few(top)),
      [10, 5].map((minutes) => s('text', { class: 'scale', x: width - (minutes / 10) * width, y: HEIGHT + 12, 'text-anchor': minutes === 10 ? 'start' : 'middle' }, `\u2212${minutes} min`)),
      s('text', { class: 'scale', x: width, y: HEIGHT + 12, 'text-anchor': 'end' }, 'now'),
      line);
    picture.addEventListener('pointermove', (event) => {
      const at = end - ((width - event.offsetX) / width) * span;
      const nearest = points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best), points[0] ?? [0]);
      if (nearest[1] === undefined) return;
      line.setAttribute('x1', x(nearest[0]));
      line.setAttribute('x2', x(nearest[0]));
      line.setAttribute('visibility', 'visible');
      told.textContent = `${few(nearest[1])} ${unit} at ${timeOfDay(nearest[0]).slice(11)}`;
    });
    picture.addEventListener('pointerleave', () => {
      line.setAttribute('visibility', 'hidden');
      told.textContent = `${unit}, at most ${few(most)} in ten minutes`;
    });
    replace(box, picture);
  }

  const observer = new ResizeObserver(() => draw());
  observer.observe(box);
  return {
    element,
    set(given) {
      points = given;
      draw();
    },
    end: () => observer.disconnect(),
  };
}

function nice(most) {
  if (most <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((n) => n * power).find((size) => size >= most);
}

/** A line without any words, for a table's cell. */
export function spark(values, label) {
  const width = 120;
  const most = Math.max(1, ...values);
  const at = (value, i) => `${((i / Math.max(1, values.length - 1)) * width).toFixed(1)} ${(17 - (value / most) * 15).toFixed(1)}`;
  return s('svg', { class: 'spark', width, height: 18, role: 'img', 'aria-label': label }, s('path', { class: 'curve', d: values.length > 1 ? `M${values.map(at).join('L')}` : '' }));
}
