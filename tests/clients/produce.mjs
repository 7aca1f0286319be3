// Publishes CloudEvents from standard input to Kafka, with kafkajs.
// See README.md in this folder; produce.py and Produce.java do the same.

import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { CompressionTypes, Kafka, logLevel, Partitioners } from 'kafkajs';

const WINDOW = 100; // events that are sent and not acknowledged, at most

const { values: options, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: {
    binary: { type: 'boolean' },
    'no-key': { type: 'boolean' },
    compression: { type: 'string', default: 'none' },
    partition: { type: 'string' },
    'retry-forever': { type: 'boolean' },
  },
});
const [bootstrap, topic] = positionals;
const compression = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP }[options.compression];
if (compression === undefined) {
  console.error(`produce.mjs: kafkajs has only gzip built in, not ${options.compression}`);
  process.exit(2);
}

// Retries for about half a minute, as the other two clients, but more often.
const retry = { initialRetryTime: 100, maxRetryTime: 500, retries: 60 };
const kafka = new Kafka({ brokers: bootstrap.split(','), logLevel: logLevel.ERROR, retry });
let producer;

// The response has one offset for each partition, so we record the partition of each message. A
// message that is sent again keeps it: without a key, the default partitioner would choose another.
const partitions = new Map();
function createPartitioner() {
  const choose = Partitioners.DefaultPartitioner();
  return args => {
    if (!partitions.has(args.message)) partitions.set(args.message, choose(args));
    return partitions.get(args.message);
  };
}

// Not readline: it decodes the bytes, and splits at U+2028.
async function* read(stream) {
  let rest = Buffer.alloc(0);
  for await (const chunk of stream) {
    rest = rest.length ? Buffer.concat([rest, chunk]) : chunk;
    for (let end; (end = rest.indexOf('\n')) >= 0; rest = rest.subarray(end + 1)) yield rest.subarray(0, end);
  }
  if (rest.length) yield rest;
}

function eventOf(line) {
  const event = JSON.parse(line);
  if (event?.constructor !== Object) throw new Error('not an object');
  const message = { value: line, headers: { 'content-type': 'application/cloudevents+json' } };
  if (options.binary) {
    const { data, datacontenttype, ...attributes } = event;
    message.value = data == null ? null : JSON.stringify(data);
    message.headers = { 'content-type': 'application/json' };
    for (const [name, value] of Object.entries(attributes)) if (value != null) message.headers[`ce_${name}`] = `${value}`;
  }
  if (!options['no-key']) message.key = event.subject;
  if (options.partition !== undefined) message.partition = Number(options.partition);
  return { id: event.id ?? '?', message };
}

async function* events() {
  for await (const line of read(process.stdin)) {
    if (!line.toString().trim()) continue;
    try {
      yield eventOf(line);
    } catch (error) {
      console.error(`? failed: ${error.message}`);
      process.exitCode = 1;
    }
  }
}

async function attempt(batch) {
  if (!producer) {
    // With several requests in flight, kafkajs numbers the records out of order.
    producer = kafka.producer({ createPartitioner, idempotent: true, maxInFlightRequests: 1, retry });
    await producer.connect();
  }
  const answers = await producer.send({ topic, acks: -1, compression, messages: batch.map(event => event.message) });
  const next = new Map(answers.map(answer => [answer.partition, BigInt(answer.baseOffset)]));
  for (const { id, message } of batch) {
    const partition = message.partition ?? partitions.get(message);
    partitions.delete(message);
    const offset = next.get(partition);
    next.set(partition, offset + 1n);
    if (!process.stdout.write(`${id} ${partition}:${offset}\n`)) await once(process.stdout, 'drain');
  }
}

async function publish(batch) {
  for (;;) {
    try {
      return await attempt(batch);
    } catch (error) {
      // Its sequence numbers may no longer match what the broker expects.
      await producer?.disconnect().catch(() => {});
      producer = undefined;
      if (batch.length > 1 && error.name !== 'KafkaJSNumberOfRetriesExceeded') {
        // The broker refuses one of them, and kafkajs does not say which.
        for (const event of batch) await publish([event]);
        return;
      }
      for (const { id } of batch) console.error(`${id} failed: ${error.message}`);
    }
    if (!options['retry-forever']) {
      process.exitCode = 1;
      return;
    }
    await new Promise(resolve => setTimeout(resolve, 500));
  }
}

// A batch is every event read until the previous batch is acknowledged.
const input = events();
const idle = () => new Promise(resolve => setImmediate(resolve));
let next = input.next();
for (let event = await next; !event.done; event = await next) {
  const batch = [];
  while (event && !event.done) {
    batch.push(event.value);
    next = input.next();
    event = batch.length < WINDOW && (await Promise.race([next, idle()]));
  }
  await publish(batch);
}
await producer?.disconnect();
