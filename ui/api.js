// The ledger's interface, as the page uses it: reads, pages and streams.

export class Refused extends Error {
  constructor(status, error) {
    super(error ? [error.error_message, error.detail].filter(Boolean).join(' ') : `the ledger responded with ${status}`);
    this.status = status;
    this.code = error?.error_code;
  }
}

/**
 * JSON.parse, but keeps the text of a number that JavaScript would change (integers beyond
 * 2^53, 1.50, 1e400): JSON.stringify writes it unchanged. Browsers older than 2025 may not
 * support that, and round.
 */
export function parse(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_, value, { source } = {}) => (typeof value === 'number' && String(value) !== source ? JSON.rawJSON(source) : value));
}

/** `{ value, position, next, etag }`; throws Refused, or an error of fetch. */
export async function read(path, { signal, headers } = {}) {
  const answer = await fetch(path, { signal, headers, cache: 'no-store' });
  if (answer.status === 304) return { unchanged: true };
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => undefined));
  const link = /^<([^>]*)>; rel="next"$/.exec(answer.headers.get('link') ?? '');
  return {
    value: parse(await answer.text()),
    position: answer.headers.get('ledger-position'),
    etag: answer.headers.get('etag'),
    next: link?.[1],
  };
}

export const operationPath = (id) => `/v1/operations/${encodeURIComponent(id)}`;

/** Splits the received text into server-sent events: `{ event, id, data }`. */
export function splitter(emit) {
  let rest = '';
  let event = { event: 'message', data: [] };
  const line = (text) => {
    if (text === '') {
      // An id alone is a position without an event.
      if (event.data.length || event.id !== undefined) emit({ ...event, data: event.data.join('\n') });
      event = { event: 'message', data: [] };
      return;
    }
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(text);
    if (name === 'data') event.data.push(value);
    else if (name === 'event') event.event = value;
    else if (name === 'id') event.id = value;
  };
  return (text) => {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    lines.forEach(line);
  };
}

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;

/**
 * Follows a stream from a position until `stop` is called. Resumes it where it
 * broke off. While the page is hidden, it keeps no connection open.
 *
 * tell.event({ event, data })   an event arrived; its data is parsed
 * tell.state(live)              whether the stream is live now
 * tell.poll()                   the ledger has no stream left: read again
 */
export function follow(path, position, tell) {
  let id = position;
  let pause = FIRST_PAUSE;
  let timer;
  let attempt;
  let stopped = false;

  async function run() {
    timer = undefined;
    if (stopped || document.hidden) return;
    attempt = new AbortController();
    const { signal } = attempt;
    try {
      const headers = { accept: 'text/event-stream', ...(id ? { 'last-event-id': id } : {}) };
      const answer = await fetch(path, { signal, headers, cache: 'no-store' });
      if (answer.status === 410) {
        id = undefined;
        tell.event({ event: 'reset' });
      } else if (!answer.ok || !answer.headers.get('content-type')?.startsWith('text/event-stream')) {
        attempt.abort();
        tell.state(false);
        tell.poll();
      } else {
        tell.state(true);
        pause = FIRST_PAUSE;
        await take(answer.body);
      }
    } catch (error) {
      if (!signal.aborted) tell.state(false);
    }
    if (stopped || document.hidden) return;
    timer = setTimeout(run, pause * (0.75 + Math.random() / 2));
    pause = Math.min(pause * 2, LONGEST_PAUSE);
  }

  async function take(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    const split = splitter((event) => {
      if (event.id !== undefined) id = event.id;
      if (event.data === '') return;
      let data;
      try {
        data = parse(event.data);
      } catch {
        data = undefined;
      }
      if (!stopped) tell.event({ event: event.event, data });
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      split(value);
    }
  }

  function shown() {
    if (document.hidden) attempt?.abort();
    else if (!stopped && timer === undefined) {
      pause = FIRST_PAUSE;
      run();
    }
  }

  document.addEventListener('visibilitychange', shown);
  run();
  return () => {
    stopped = true;
    clearTimeout(timer);
    attempt?.abort();
    document.removeEventListener('visibilitychange', shown);
  };
}
