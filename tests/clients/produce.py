"""Publishes CloudEvents from standard input to Kafka, with librdkafka.

See README.md in this folder; produce.mjs and Produce.java do the same.
"""

import argparse
import json
import queue
import sys
import threading
import time

from confluent_kafka import KafkaException, Producer

WINDOW = 100  # events that are sent and not acknowledged, at most
STRUCTURED = {"content-type": "application/cloudevents+json"}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("--binary", action="store_true")
    parser.add_argument("--no-key", action="store_true")
    parser.add_argument("--compression", default="none", choices=["none", "gzip", "snappy", "lz4", "zstd"])
    parser.add_argument("--partition", type=int)
    parser.add_argument("--retry-forever", action="store_true")
    return parser.parse_args()


def read(lines):
    for line in sys.stdin.buffer:
        if line.strip():
            lines.put(line.removesuffix(b"\n"))
    lines.put(None)


def record_of(line, options):
    """The event's id, and the arguments of produce()."""
    event = json.loads(line)
    record = {"topic": options.topic, "value": line, "headers": STRUCTURED}
    if options.binary:
        data = event.get("data")
        record["value"] = None if data is None else json.dumps(data).encode()
        record["headers"] = {"content-type": "application/json"}
        for name, value in event.items():
            if name not in ("data", "datacontenttype") and value is not None:
                record["headers"][f"ce_{name}"] = value if isinstance(value, str) else json.dumps(value)
    if not options.no_key:
        record["key"] = event.get("subject")
    if options.partition is not None:
        record["partition"] = options.partition
    return event.get("id", "?"), record


class Sender:
    def __init__(self, options):
        self.options = options
        self.in_flight = 0
        self.failed = []  # to be sent again, in this order
        self.lost = False
        self.connect()

    def connect(self):
        self.producer = Producer({
            "bootstrap.servers": self.options.bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": self.options.compression,
            "message.max.bytes": 8 << 20,  # the broker decides
            "reconnect.backoff.max.ms": 500,  # not 10 s, so that tests continue soon after a restart
            "message.timeout.ms": 0 if self.options.retry_forever else 30_000,
        })

    def send(self, event):
        self.in_flight += 1
        try:
            self.producer.produce(**event[1], on_delivery=lambda error, message: self.settle(event, error, message))
        except (KafkaException, BufferError) as error:
            self.settle(event, error, None)

    def settle(self, event, error, message):
        self.in_flight -= 1
        if error is None:
            print(f"{event[0]} {message.partition()}:{message.offset()}", flush=True)
        else:
            print(f"{event[0]} failed: {error}", file=sys.stderr, flush=True)
            if self.options.retry_forever:
                self.failed.append(event)
            else:
                self.lost = True

    def send_failed_again(self):
        """Once all others are settled, and with a new producer: after a fatal error the old one refuses all."""
        time.sleep(0.5)
        self.connect()
        again, self.failed = self.failed, []
        for event in again:
            self.send(event)


def main():
    options = arguments()
    sender = Sender(options)
    lines = queue.Queue(WINDOW)
    threading.Thread(target=read, args=[lines], daemon=True).start()
    more = True
    while more or sender.in_flight or sender.failed:
        if more and sender.in_flight < WINDOW and not sender.failed:
            try:
                line = lines.get(timeout=0.005)
                more = line is not None
                if more:
                    sender.send(record_of(line, options))
            except queue.Empty:
                pass
            except (ValueError, AttributeError) as error:
                print(f"? failed: {error}", file=sys.stderr, flush=True)
                sender.lost = True
            sender.producer.poll(0)
        else:
            sender.producer.poll(0.05)
        if sender.failed and not sender.in_flight:
            sender.send_failed_again()
    sys.exit(1 if sender.lost else 0)


main()
