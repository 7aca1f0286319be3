// usage: worker.mjs BOOTSTRAP OPERATION_ID [TOPIC]   (npm install kafkajs)
import { randomUUID } from 'node:crypto';
import { Kafka } from 'kafkajs';

const [bootstrap, operation, topic = 'opledger.events'] = process.argv.slice(2);
if (!operation || process.argv.length > 5) {
  console.error('usage: worker.mjs BOOTSTRAP OPERATION_ID [TOPIC]');
  process.exit(1);
}
const producer = new Kafka({ brokers: bootstrap.split(',') }).producer({ idempotent: true, maxInFlightRequests: 1 });

async function publish(kind, data) {
  const event = { specversion: '1.0', id: randomUUID(), source: '/workers/example', type: `opledger.${kind}.v1`,
    subject: operation, time: new Date().toISOString(), data };
  const headers = { 'content-type': 'application/cloudevents+json' };
  const [record] = await producer.send({ topic, messages: [{ key: operation, value: JSON.stringify(event), headers }] });
  console.log(`${record.partition}:${record.baseOffset}`);
}

await producer.connect();
await publish('operation.created', { request: { uri: '/v1/slices/A', method: 'PUT', body: '{"action":"update"}' } });
await publish('operation.started', {});
await producer.disconnect();
