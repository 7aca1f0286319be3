// The picture of an operation: a lane for each request to a cluster, on one axis
// of event time. The axis leaves out long silences and labels each gap. The marks are
// one stop of the tab key; arrows move from mark to mark.

import { h, s, replace } from './dom.js';
import { duration, timeOfDay, visible, plural } from './format.js';
import { outcome, sentence, statusOf } from './story.js';

const MOST_LANES = 200;
const LABEL = 148;
const RIGHT = 26;
const TOP = 30;
const HEAD = 34;
const LANE = 26;
const UNDO = 18;
const BREAK = 46;

/** Where a time is on the axis, with the silences that are shortened. */
function axis(times, from, to, width) {
  const sorted = [...new Set(times)].sort((a, b) => a - b);
  const gaps = sorted.slice(1).map((time, i) => ({ from: sorted[i], to: time, length: time - sorted[i] }));
  let span = to - from;
  const cut = [];
  const most = Math.min(3, gaps.length - 1);
  for (const gap of [...gaps].sort((a, b) => b.length - a.length)) {
    // Worth it if one silence is most of the remaining time.
    if (cut.length >= most || gap.length < span * 0.7 || gap.length < 30_000) break;
    cut.push(gap);
    span -= gap.length;
  }
  cut.sort((a, b) => a.from - b.from);
  const scale = span > 0 ? (width - cut.length * BREAK) / span : 0;
  const at = (time) => {
    let x = (time - from) * scale;
    for (const gap of cut) {
      if (time >= gap.to) x += BREAK - gap.length * scale;
      else if (time > gap.from) x += ((time - gap.from) / gap.length) * BREAK - (time - gap.from) * scale;
    }
    return x;
  };
  return { at, cut, scale, span };
}

/** Steps of 1, 2, 5 × 10ⁿ ms below a minute, and of the clock above. */
function step(least) {
  const clock = [60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400].map((seconds) => seconds * 1000);
  if (least > 30_000) return clock.find((size) => size >= least) ?? Math.ceil(least / 86_400_000) * 86_400_000;
  const power = 10 ** Math.floor(Math.log10(Math.max(least, 0.001)));
  return [1, 2, 5, 10].map((n) => n * power).find((size) => size >= least);
}

export function timeline(model, { ongoing }) {
  const holder = h('div', { class: 'timeline' });
  const tip = h('div', { class: 'tip', hidden: true });
  const box = h('div', { class: 'timeline-box' });
  holder.append(box, tip);
  let width = 0;
  let chosen = 0;
  const observer = new ResizeObserver(([entry]) => {
    const now = Math.max(340, Math.floor(entry.contentRect.width));
    if (now === width) return;
    width = now;
    const held = box.contains(document.activeElement);
    draw();
    if (held) box.querySelector('[tabindex="0"]')?.focus();
  });
  observer.observe(holder);

  function draw() {
    const picture = paint(model, width, ongoing);
    const marks = [...picture.querySelectorAll('.mark')];
    chosen = Math.min(chosen, marks.length - 1);
    marks.forEach((mark, i) => {
      mark.setAttribute('tabindex', i === chosen ? '0' : '-1');
      mark.addEventListener('focus', () => show(mark));
      mark.addEventListener('blur', hide);
      mark.addEventListener('pointerenter', () => show(mark));
      mark.addEventListener('pointerleave', hide);
    });
    picture.addEventListener('keydown', (event) => {
      const next = neighbour(marks, chosen, event.key);
      if (event.key === 'Escape') hide();
      if (next === undefined) return;
      event.preventDefault();
      marks[chosen].setAttribute('tabindex', '-1');
      chosen = next;
      marks[chosen].setAttribute('tabindex', '0');
      marks[chosen].focus();
    });
    replace(box, picture);
  }

  function show(mark) {
    replace(tip, mark.getAttribute('data-tip').split('\n').map((line) => h('div', {}, line)));
    tip.hidden = false;
    const around = holder.getBoundingClientRect();
    const place = mark.getBoundingClientRect();
    const left = place.left - around.left + Math.min(place.width / 2, 120) - tip.offsetWidth / 2;
    tip.style.left = `${Math.max(0, Math.min(left, around.width - tip.offsetWidth))}px`;
    tip.style.top = `${place.bottom - around.top + 6}px`;
  }

  function hide() {
    tip.hidden = true;
  }

  holder.end = () => observer.disconnect();
  return holder;
}

/** By arrow keys: along the lane, or to the nearest mark of the next one. */
function neighbour(marks, at, key) {
  const here = marks[at];
  if (!here) return undefined;
  const row = Number(here.dataset.row);
  const x = Number(here.dataset.x);
  const best = (fits, worth) => {
    const all = marks.map((mark, i) => [i, Number(mark.dataset.row), Number(mark.dataset.x)]).filter(([i, r, mx]) => i !== at && fits(r, mx, i));
    all.sort((a, b) => worth(a[1], a[2], a[0]) - worth(b[1], b[2], b[0]));
    return all[0]?.[0];
  };
  switch (key) {
    case 'ArrowRight': return best((r, mx, i) => r === row && (mx > x || (mx === x && i > at)), (r, mx, i) => mx * 1000 + i);
    case 'ArrowLeft': return best((r, mx, i) => r === row && (mx < x || (mx === x && i < at)), (r, mx, i) => -mx * 1000 - i);
    case 'ArrowDown': return best((r) => r > row, (r, mx) => r * 1e6 + Math.abs(mx - x));
    case 'ArrowUp': return best((r) => r < row, (r, mx) => -r * 1e6 + Math.abs(mx - x));
    case 'Home': return 0;
    case 'End': return marks.length - 1;
    default: return undefined;
  }
}

function paint(model, width, ongoing) {
  const lanes = model.lanes.slice(0, MOST_LANES);
  const from = Math.min(model.from, model.created?.time ?? model.from);
  const to = model.to > from ? model.to : from + 1;
  const plotted = width - LABEL - RIGHT;
  const { at, cut, scale } = axis(model.events.map((event) => event.time), from, to, plotted);
  const x = (time) => Math.round((LABEL + at(time)) * 10) / 10;
  const edge = width - 6;
  const rows = [];
  let y = TOP + HEAD;
  for (const lane of lanes) {
    rows.push(y);
    y += LANE + (lane.attempts.length || lane.undone.length ? UNDO : 0);
  }
  const height = y + 26;
  const odd = new Map();
  for (const { event, text } of model.anomalies) odd.set(event, [...(odd.get(event) ?? []), text]);

  const marks = [];
  let row = 0;
  /** Something that can be pointed at: a bar or a point, described by `lines`. */
  const mark = (kind, left, label, lines, ...shapes) =>
    marks.push({ row, left, element: s('g', { class: `mark ${kind}`, role: 'img', 'aria-label': [label, ...lines].join('. '), 'data-tip': [label, ...lines].join('\n'), 'data-row': row, 'data-x': left }, shapes) });
  const moment = (event) => {
    const since = model.created ? event.time - model.created.time : 0;
    const sign = since < 0 ? '' : '+';
    return [`${timeOfDay(event.time, 3)} UTC${model.created && event !== model.created ? ` (${sign}${duration(since)})` : ''}`, ...(odd.get(event) ?? []).map((text) => `\u26a0 ${text}`)];
  };
  const warn = (event, left, top) => odd.has(event) && s('path', { class: 'warn', d: `M${left} ${top - 11.5}l4.6 8h-9.2z` });

  // The background, drawn beneath everything else.
  const ground = [];
  const end = model.end;
  if (end && x(end.time) < edge - 1) ground.push(s('rect', { class: 'after', x: x(end.time), y: TOP - 4, width: edge - x(end.time), height: height - TOP - 16 }));
  ground.push(...grid(from, to, at, scale, cut, x, height, model.created?.time ?? from));
  lanes.forEach((lane, i) => ground.push(s('line', { class: 'rule', x1: 0, x2: edge, y1: rows[i], y2: rows[i] })));
  if (end) ground.push(s('line', { class: `end ${statusOf(end)}`, x1: x(end.time), x2: x(end.time), y1: TOP - 4, y2: height - 20 }));

  // The operation itself.
  const middle = TOP + HEAD / 2;
  const labels = [s('text', { class: 'name strong', x: 0, y: middle + 4 }, 'Operation')];
  const begin = model.created ?? model.events[0];
  const working = model.events.find((event) => event.kind !== 'operation.created' && event.kind !== 'operation.progressed' && !model.operation.ends.includes(event));
  const until = end ? x(end.time) : ongoing ? edge : x(to);
  if (begin) {
    const executed = working && (!end || working.index < end.index) ? x(working.time) : until;
    const left = x(begin.time);
    const bar = (kind, a, b) => s('rect', { class: kind, x: a, y: middle - 4, width: Math.max(0.5, b - a), height: 8, rx: 2 });
    const total = end ? duration(end.time - begin.time) : `${duration(to - begin.time)} so far`;
    mark('bar', left, end ? `Operation, ${statusOf(end)} after ${total}` : `Operation under way, ${total}`, [], bar('waited', left, executed), executed < until && bar(`ran ${end ? statusOf(end) : 'executing'}`, executed, until));
  }
  const own = [...model.operation.created, ...model.operation.started, ...model.operation.progressed];
  for (const event of own) {
    const left = x(event.time);
    const shape = event.kind === 'operation.progressed' ? s('rect', { class: 'tick', x: left - 1.5, y: middle - 8, width: 3, height: 16, rx: 1 }) : s('circle', { class: 'point', cx: left, cy: middle, r: 5 });
    mark('event', left, sentence(event), moment(event), shape, warn(event, left, middle - 4));
  }
  model.operation.ends.forEach((event, i) => {
    const left = x(event.time);
    const shape = s('rect', { class: `stop ${statusOf(event)}${i ? ' lost' : ''}`, x: left - 5, y: middle - 5, width: 10, height: 10, transform: `rotate(45 ${left} ${middle})` });
    mark('event', left, sentence(event), moment(event), shape, warn(event, left, middle - 6));
  });

  lanes.forEach((lane, i) => {
    row += 1;
    const line = rows[i] + LANE / 2;
    labels.push(label(lane, line));
    const [request] = lane.requests;
    const { answer } = lane;
    const result = outcome(answer);
    if (request) {
      const left = x(request.time);
      const right = answer ? Math.max(x(answer.time), left + 1.5) : edge;
      const took = answer ? `response after ${duration(answer.time - request.time)}` : end || !ongoing ? 'no response' : 'no response yet';
      const text = answer ? duration(answer.time - request.time) : took;
      mark(answer ? 'bar' : 'bar open', left, `Cluster ${visible(lane.cluster)}: ${took}`, [sentence(request), ...(answer ? [sentence(answer)] : [])], bars(left, right, line, 10, answer ? result : 'none', text, edge));
      mark('event', left, sentence(request), moment(request), s('circle', { class: 'point', cx: left, cy: line, r: 4 }), warn(request, left, line - 3));
    }
    for (const again of lane.requests.slice(1)) mark('event', x(again.time), `Again: ${sentence(again)}`, moment(again), s('circle', { class: 'point lost', cx: x(again.time), cy: line, r: 3 }));
    for (const event of lane.answers) mark('event', x(event.time), sentence(event), moment(event), answered(event, x(event.time), line, event !== answer), warn(event, x(event.time), line - 3));
    if (!lane.attempts.length && !lane.undone.length) return;
    row += 1;
    const below = rows[i] + LANE + UNDO / 2 - 4;
    const [attempt] = lane.attempts;
    const { undo } = lane;
    labels.push(s('text', { class: 'name faint', x: 16, y: below + 4 }, '\u21b6 rollback'));
    if (attempt) {
      const left = x(attempt.time);
      const right = undo ? Math.max(x(undo.time), left + 1.5) : edge;
      const took = undo ? `response after ${duration(undo.time - attempt.time)}` : ongoing ? 'no response yet' : 'no response';
      mark(undo ? 'bar' : 'bar open', left, `Rollback of cluster ${visible(lane.cluster)}: ${took}`, [sentence(attempt)], bars(left, right, below, 6, undo ? `undo ${outcome(undo)}` : 'none undo', undo ? duration(undo.time - attempt.time) : took, edge));
    }
    for (const event of lane.attempts) mark('event', x(event.time), sentence(event), moment(event), s('path', { class: 'undo-point', d: `M${x(event.time) + 4} ${below - 4.5}v9l-8 -4.5z` }), warn(event, x(event.time), below - 3));
    for (const event of lane.undone) if (!lane.attempts.includes(event)) mark('event', x(event.time), sentence(event), moment(event), answered(event, x(event.time), below, event !== undo), warn(event, x(event.time), below - 3));
  });

  // In the order of the keyboard: lane by lane, along the time.
  const order = [...marks].sort((a, b) => a.row - b.row || a.left - b.left);
  const left = model.lanes.length - lanes.length;
  return h('div', {},
    s('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `Timeline: ${plural(model.lanes.length, 'cluster request')}, ${plural(model.events.length, 'event')}. Arrow keys go from mark to mark.` }, ground, labels, order.map((one) => one.element)),
    left > 0 && h('p', { class: 'note' }, `${plural(left, 'further request')} not drawn; the document and the history have all of them.`));
}

/** How long it took: in the bar if that is high and long enough, else beside it. */
function caption(left, right, y, height, text, edge) {
  const width = text.length * 6.4 + 18;
  const place = (x, anchor) => s('text', { class: 'took', x, y: y + 3.5, 'text-anchor': anchor }, text);
  if (height > 8 && right - left > width) return place(left + 10, 'start');
  if (edge - right > width) return place(right + 10, 'start');
  if (left - LABEL > width) return place(left - 9, 'end');
  return undefined;
}

function bars(left, right, y, height, kind, text, edge) {
  const width = right - left;
  return [
    s('rect', { class: `span ${kind}`, x: left, y: y - height / 2, width, height, rx: 2 }),
    // A finger needs more than a bar.
    s('rect', { class: 'reach', x: left, y: y - 10, width, height: 20 }),
    caption(left, right, y, height, text, edge),
  ];
}

function answered(event, left, y, lost) {
  const result = outcome(event);
  const sign = { good: 'M-2.6 0.2l1.9 2 3.4 -4', bad: 'M-2.3 -2.3l4.6 4.6m0 -4.6l-4.6 4.6', odd: 'M-2.5 0h5' }[result];
  return s('g', { class: `answer ${result}${lost ? ' lost' : ''}`, transform: `translate(${left} ${y})` }, s('circle', { r: 6 }), s('path', { d: sign }));
}

function label(lane, y) {
  const shown = visible(lane.cluster);
  const text = lane.request === lane.cluster ? shown : `${shown} \u00b7 ${visible(lane.request)}`;
  const short = text.length > 19 ? `${text.slice(0, 18)}\u2026` : text;
  return s('text', { class: 'name', x: 0, y: y + 4 }, s('title', {}, `Cluster ${text}`), text.length < 12 && s('tspan', { class: 'faint' }, 'cluster '), short);
}

function grid(from, to, at, scale, cut, x, height, zero) {
  const shapes = [];
  // Over hours, the time of day says more than how long after the beginning.
  const clock = to - zero > 3_600_000;
  let day;
  const scaleText = (time, size) => {
    if (!clock) return time === zero ? '0' : `+${duration(time - zero)}`;
    const text = timeOfDay(time, size < 1000 ? 3 : 0);
    const date = text.slice(5, 10);
    const shown = date === day ? text.slice(11) : text.slice(5);
    day = date;
    return size >= 60_000 ? shown.replace(/:00$/, '') : shown;
  };
  if (scale > 0) {
    const size = step((clock ? 110 : 84) / scale);
    const least = Math.ceil((from - zero) / size);
    let before = -100;
    for (let n = least; zero + n * size <= to; n += 1) {
      const time = zero + n * size;
      if (cut.some((gap) => time > gap.from && time < gap.to)) {
        // Continue after the silence, however many steps that takes.
        const gap = cut.find((one) => time > one.from && time < one.to);
        n = Math.ceil((gap.to - zero) / size) - 1;
        continue;
      }
      const left = x(time);
      if (left - before < (clock ? 96 : 60)) continue;
      before = left;
      shapes.push(s('line', { class: 'grid', x1: left, x2: left, y1: TOP - 4, y2: height - 20 }), s('text', { class: 'scale', x: left, y: 14, 'text-anchor': n === least && at(time) < 30 ? 'start' : 'middle' }, scaleText(time, size)));
    }
  }
  for (const gap of cut) {
    const left = x(gap.from) + 9;
    const right = x(gap.to) - 9;
    const middle = (left + right) / 2;
    shapes.push(s('g', { class: 'silence' }, s('title', {}, `Nothing happened for ${duration(gap.length)}; the axis is shortened here.`), s('rect', { x: left, y: TOP - 4, width: right - left, height: height - TOP - 16 }), s('text', { x: middle, y: height - 6, 'text-anchor': 'middle' }, `\u2026 ${duration(gap.length)}`)));
  }
  return shapes;
}
