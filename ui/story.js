// Derives lanes, terminal events, silences and contradictions from a history. The
// ledger returns events in the order that decides (time, source, id), so the
// first and the last of a list are the earliest and the latest.

import { parse } from './api.js';
import { eventTime, isGood, visible } from './format.js';

const TYPE = /^opledger\.(.*)\.v1$/;

/** `entries` as the history returns them: { position, arrived, event }. */
export function story(entries) {
  const events = entries.map(read);
  const lanes = new Map();
  const operation = { created: [], started: [], progressed: [], ends: [] };
  for (const event of events) place(event, operation, lanes);
  const created = operation.created[0];
  const end = operation.ends[0];
  const all = [...lanes.values()];
  all.forEach(settle);
  // As the document has them: by first request, then rollbacks of requests never seen.
  const first = (lane) => events.indexOf(lane.requests[0] ?? lane.attempts[0] ?? lane.answers[0] ?? lane.undone[0]);
  const rank = (lane) => (lane.requests.length ? 0 : 1);
  const order = new Map(all.map((lane) => [lane, [rank(lane), first(lane)]]));
  all.sort((a, b) => order.get(a)[0] - order.get(b)[0] || order.get(a)[1] - order.get(b)[1]);
  const times = events.map((event) => event.time).filter(Number.isFinite);
  return {
    events,
    lanes: all,
    operation,
    created,
    end,
    from: Math.min(...times),
    to: Math.max(...times),
    silence: longestSilence(events, end),
    anomalies: anomalies(events, operation, all),
  };
}

function read(entry, index) {
  const { event } = entry;
  const kind = TYPE.exec(event.type ?? '')?.[1] ?? String(event.type);
  const data = event.data ?? decoded(event.data_base64) ?? {};
  return {
    index,
    kind,
    data,
    raw: event,
    time: eventTime(event.time),
    arrived: eventTime(entry.arrived),
    position: entry.position,
    claimed: entry.arrived_by === 'producer',
  };
}

/** The data of an event whose producer sends it as bytes (`data_base64`). */
function decoded(base64) {
  if (typeof base64 !== 'string') return undefined;
  try {
    return parse(new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))));
  } catch {
    return undefined;
  }
}

function place(event, operation, lanes) {
  const { kind, data } = event;
  if (kind === 'operation.created') operation.created.push(event);
  else if (kind === 'operation.started') operation.started.push(event);
  else if (kind === 'operation.progressed') operation.progressed.push(event);
  else if (/^operation\.(completed|failed|canceled)$/.test(kind)) operation.ends.push(event);
  else {
    const cluster = String(data.cluster_id ?? '');
    const request = String(data.request_id ?? cluster);
    const key = JSON.stringify([cluster, request]);
    if (!lanes.has(key)) lanes.set(key, { cluster, request, requests: [], answers: [], attempts: [], undone: [] });
    const lane = lanes.get(key);
    if (kind === 'cluster.request_sent') lane.requests.push(event);
    else if (kind === 'cluster.response_received') lane.answers.push(event);
    else if (kind === 'rollback.attempted') {
      lane.attempts.push(event);
      if (data.response) lane.undone.push(event);
    } else if (kind === 'rollback.response_received') lane.undone.push(event);
  }
}

/** The responses that count: the last ones. */
function settle(lane) {
  lane.answer = lane.answers.at(-1);
  lane.undo = lane.undone.at(-1);
}

/** `good`, `bad`, `odd` (a response without a status code), or undefined. */
export function outcome(event) {
  if (!event) return undefined;
  const code = event.data.response?.status_code;
  return code === undefined || code === null ? 'odd' : isGood(code) ? 'good' : 'bad';
}

export const statusOf = (end) => end.kind.slice('operation.'.length);

/** The longest time without an event, up to the terminal event. */
function longestSilence(events, end) {
  let longest;
  const until = end ? events.slice(0, end.index + 1) : events;
  until.forEach((event, i) => {
    const before = until[i - 1];
    const length = before ? event.time - before.time : 0;
    if (length > (longest?.length ?? 0)) longest = { from: before.time, to: event.time, length };
  });
  return longest;
}

const same = (a, b) => canonical(a) === canonical(b);

function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical)}]`;
  if (typeof value === 'number' && Number.isFinite(value)) return decimal(String(value));
  if (JSON.isRawJSON?.(value)) return decimal(value.rawJSON);
  if (value === null || typeof value !== 'object') return JSON.stringify(value ?? null);
  const members = Object.keys(value).filter((name) => value[name] !== null).sort();
  return `{${members.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`)}}`;
}

/** One text for each value: that of 1 and 1.0 is the same. */
function decimal(text) {
  const [, sign, whole, part = '', power = '0'] = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(text);
  const digits = (whole + part).replace(/^0+/, '');
  const short = digits.replace(/0+$/, '');
  return short && `${sign}${short}e${BigInt(power) - BigInt(part.length) + BigInt(digits.length - short.length)}`;
}

const laneName = (lane) => (lane.request === lane.cluster ? `Cluster ${visible(lane.cluster)}` : `Cluster ${visible(lane.cluster)}, request ${visible(lane.request)}`);

/** Contradictions and gaps between the events, each with the event that shows it. */
function anomalies(events, operation, lanes) {
  const found = [];
  const add = (kind, event, text) => found.push({ kind, event, text });
  const [created] = operation.created;
  const [end] = operation.ends;
  if (!created) add('not_created', events[0], 'The creation event has not arrived, so there is no document yet.');
  for (const again of operation.created.slice(1)) {
    if (!same(again.data, created.data)) add('created_again', again, 'Created again with other content; the first event counts.');
  }
  if (created) {
    for (const early of events.slice(0, created.index)) add('before_created', early, 'Before the creation event.');
  }
  for (const other of operation.ends.slice(1)) {
    if (statusOf(other) !== statusOf(end) || !same(other.data.response, end.data.response)) {
      add('terminal_conflict', other, `A second terminal event, ${statusOf(other)}; the first, ${statusOf(end)}, counts.`);
    }
  }
  if (end) {
    for (const late of events.slice(end.index + 1)) {
      if (!operation.ends.includes(late)) add('event_after_terminal', late, 'After the terminal event.');
    }
  }
  for (const lane of lanes) {
    const name = laneName(lane);
    if (lane.answers.length && !lane.requests.length) add('response_without_request', lane.answers[0], `${name} responded to a request that has not arrived.`);
    if (lane.undone.length && !lane.attempts.length) add('response_without_request', lane.undone[0], `${name} responded to a rollback that has not arrived.`);
    for (const [answers, what] of [[lane.answers, 'response'], [lane.undone, 'response to the rollback']]) {
      answers.slice(1).forEach((later, i) => {
        if (!same(later.data.response, answers[i].data.response)) add('response_replaced', later, `${name}: another ${what} replaces an earlier one.`);
      });
    }
  }
  const ids = new Map();
  for (const event of events) {
    const id = JSON.stringify([event.raw.source, event.raw.id]);
    if (ids.has(id)) add('id_reused', event, 'Shares source and id with another event.');
    else ids.set(id, event);
  }
  return found.sort((a, b) => a.event.index - b.event.index);
}

/** One line about one event. */
export function sentence(event) {
  const { kind, data } = event;
  const code = data.response?.status_code;
  const said = code === undefined || code === null ? 'without a status code' : code;
  const where = `cluster ${visible(data.cluster_id)}`;
  const asked = data.request ? `${visible(data.request.method)} ${visible(data.request.uri)}` : '';
  switch (kind) {
    case 'operation.created': return `Created: ${asked}`;
    case 'operation.started': return 'Execution started';
    case 'operation.progressed': return data.sub_status === undefined || data.sub_status === null ? 'Sub-status cleared' : `Sub-status: ${visible(data.sub_status).slice(0, 200)}`;
    case 'cluster.request_sent': return `Request to ${where}: ${asked}`;
    case 'cluster.response_received': return `Response of ${where}: ${said}`;
    case 'rollback.attempted': return `Rollback of ${where}: ${asked}${data.response ? `, response ${said}` : ''}`;
    case 'rollback.response_received': return `Response to the rollback of ${where}: ${said}`;
    case 'operation.completed': return `Completed: ${said}`;
    case 'operation.failed': return `Failed: ${said}`;
    case 'operation.canceled': return data.reason ? `Canceled: ${visible(data.reason).slice(0, 200)}` : 'Canceled';
    default: return visible(kind);
  }
}
