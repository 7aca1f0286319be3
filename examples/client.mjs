// usage: client.mjs URL OPERATION_ID   (nothing but Node 18 or later: publish, watch, wait)
import { randomUUID } from 'node:crypto';

const [base, operation] = process.argv.slice(2);
if (!operation || process.argv.length > 4) {
  console.error('usage: client.mjs URL OPERATION_ID');
  process.exit(1);
}
const url = `${base}/v1/operations/${operation}`;

async function publish(kind, data) {
  const event = { specversion: '1.0', id: randomUUID(), source: '/workers/example', type: `opledger.${kind}.v1`, subject: operation, time: new Date().toISOString(), data };
  // Where this is answered with 202, the event is durable. Sending the same event again is harmless.
  const answer = await fetch(`${base}/v1/events`, { method: 'POST', headers: { 'content-type': 'application/cloudevents+json' }, body: JSON.stringify(event) });
  if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.headers.get('ledger-position');
}

// The document once the operation has ended, also if it does not exist yet.
async function wait() {
  for (let etag; ; ) {
    const answer = await fetch(url, { headers: { prefer: 'wait=30', ...(etag && { 'if-none-match': etag }) } });
    if (answer.status === 304 || answer.status === 404) continue;
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    etag = answer.headers.get('etag');
    const document = await answer.json();
    if (['completed', 'failed', 'canceled'].includes(document.status)) return document;
  }
}

// Every state until the end. After an error: once more, with Last-Event-ID.
async function watch() {
  const stream = await fetch(url, { headers: { accept: 'text/event-stream' } });
  let rest = '';
  for await (const piece of stream.body.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + piece).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.includes('event: document\n')) console.log('watched:', JSON.parse(/^data: (.*)$/m.exec(block)[1]).status);
    }
  }
}

const watching = watch();
await publish('operation.created', { request: { uri: '/v1/slices/A', method: 'PUT', body: '{"action":"update"}' } });
await publish('operation.completed', { response: { status_code: 200 } });
console.log('waited:', (await wait()).status);
await watching;
