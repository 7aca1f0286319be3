// usage: client.js BASE OPERATION_ID   (with the types that openapi-typescript wrote)
import assert from 'node:assert/strict';
import createClient from 'openapi-fetch';
import type { components, paths } from './opledger.js';

type Event = components['schemas']['Event'];
const [base, operation] = process.argv.slice(2) as [string, string];
const { GET, POST } = createClient<paths, 'application/json'>({ baseUrl: base });
const began = Date.now();

/** The attributes of the n-th event. */
const about = (n: number) => ({ specversion: '1.0' as const, id: `e-${n}`, source: '/generated/typescript', subject: operation, time: new Date(began + n).toISOString() });

const structured = { 'content-type': 'application/cloudevents+json' };
const batch = { 'content-type': 'application/cloudevents-batch+json' };

async function publish(body: Event | Event[]): Promise<string> {
  const headers = Array.isArray(body) ? batch : structured;
  const { data, response } = await POST('/v1/events', { body, headers });
  assert.equal(response.status, 202);
  assert.equal(data?.positions.length, Array.isArray(body) ? body.length : 1);
  return response.headers.get('ledger-position')!;
}

const path = { operation_id: operation };
const read = (header: Record<string, string>) => GET('/v1/operations/{operation_id}', { params: { path, header } });

const request = { uri: '/v1/slices/A', method: 'PUT' as const, body: '{"a":1}' };
let token = await publish({ ...about(0), type: 'opledger.operation.created.v1', data: { request } });

// Read: what was just written.
const first = await read({ 'Ledger-Position': token });
assert.equal(first.data?.status, 'unexecuted');
assert.equal(first.data.request.body, '{"a":1}');
const etag = first.response.headers.get('etag')!;
assert.equal((await read({ 'If-None-Match': etag })).response.status, 304);
const missing = await GET('/v1/operations/{operation_id}', { params: { path: { operation_id: 'missing' } } });
assert.equal(missing.error?.error_code, '030001');

// List: identifiers, documents, and nothing new.
const list = (query: paths['/v1/operations']['get']['parameters']['query'], header: Record<string, string> = {}) => GET('/v1/operations', { params: { query, header } });
const ids = await list({}, { 'Ledger-Position': token });
assert.ok(ids.data && 'operation_ids' in ids.data && ids.data.operation_ids.includes(operation));
const details = await list({ format: 'detail-list', status: ['unexecuted'], limit: 5 }, { 'Ledger-Position': token });
assert.ok(details.data && 'operations' in details.data);
assert.ok(details.data.operations.some((one) => one.operation_id === operation));
const again = await list({}, { 'If-None-Match': ids.response.headers.get('etag')! });
assert.equal(again.response.status, 304);

// Wait: for a change of what is known.
const waiting = read({ 'If-None-Match': etag, Prefer: 'wait=30' });
const binary = await POST('/v1/events', {
  body: {},
  params: { header: { 'ce-specversion': '1.0', 'ce-id': 'e-1', 'ce-source': '/generated/typescript', 'ce-type': 'opledger.operation.started.v1', 'ce-subject': operation, 'ce-time': about(1).time } },
});
assert.equal(binary.response.status, 202);
const waited = await waiting;
assert.equal(waited.data?.status, 'executing');
assert.equal(waited.response.headers.get('preference-applied'), 'wait=30');

const lane = { cluster_id: '4', request };
token = await publish([
  { ...about(2), type: 'opledger.cluster.request_sent.v1', data: lane },
  { ...about(3), type: 'opledger.cluster.response_received.v1', data: { cluster_id: '4', response: { status_code: 500, body: 'no' } } },
  { ...about(4), type: 'opledger.rollback.attempted.v1', data: { ...lane, response: { status_code: 200 } }, traceparent: '00-01' },
  { ...about(5), type: 'opledger.operation.failed.v1', data: { response: { status_code: 500, body: 'failed' } } },
]);

const last = await read({ 'Ledger-Position': token });
assert.equal(last.data?.rollbacks?.result, 'completed');
assert.equal(last.data.response?.body, 'failed');
const history = await GET('/v1/operations/{operation_id}/events', { params: { path, header: { 'Ledger-Position': token } } });
assert.deepEqual(history.data?.events.map((entry) => entry.event.id), [0, 1, 2, 3, 4, 5].map((n) => `e-${n}`));
const letters = await GET('/v1/dead-letters', {});
assert.deepEqual(letters.data?.dead_letters, []);
console.log(JSON.stringify(last.data));
