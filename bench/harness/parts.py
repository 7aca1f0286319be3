"""The parts of the measurement. Each yields one or more tables."""

import json
import re
import socket
import time
from functools import partial
from statistics import mean

from . import contenders
from .report import AROUND, Table
from .tools import Failed, Process, cpu, free_port, say

MIB = 1 << 20

START, ALL_IN = "start, left out, s", "with it, events/s"
BATCHES = "bare consumer, batches"
ONE_BY_ONE = "bare consumer, one by one"
CONSTANT = "a constant, same HTTP library"


def chosen(setting, classes):
    wanted = setting.options.contender
    known = {contender.key for contender in contenders.ALL}
    if wanted and not set(wanted) <= known:
        raise Failed(f"no such contender; there are {', '.join(sorted(known))}")
    for contender in classes:
        if wanted and contender.key not in wanted:
            continue
        if contender is contenders.Postgres and not setting.postgres:
            say("no PostgreSQL here: left out")
            continue
        yield contender


def side_by_side(setting):
    """Catching up with the topic, and reads of the resulting documents."""
    topic = setting.topic("small")
    caught_up = Table(
        "catch-up",
        f"Catch-up: {topic.events:,} events of {topic.bytes / topic.events:.0f} bytes in 6 partitions",
        main="events/s", limit=BATCHES, rival=contenders.Opledger.name,
    )
    reads = Table(
        "get",
        "GET of a document: hot ones, 32 connections of one client on the same cores",
        main="GET/s", limit=CONSTANT, rival=contenders.Opledger.name,
    )
    for turn in range(1, setting.plan.rounds + 1):
        say(f"round {turn} of {setting.plan.rounds}")
        bare_consumers(setting, topic, caught_up)
        for contender in chosen(setting, contenders.ALL):
            visit(contender(setting, topic), caught_up, reads)
        if not setting.options.contender:
            nginx(setting, topic, reads)
    yield caught_up
    yield reads


def with_large_bodies(setting):
    """Catching up where the bytes count, not the events."""
    topic = setting.topic("large")
    table = Table(
        "bodies",
        f"Catch-up: {topic.events:,} events with bodies of 10 KB ({topic.bytes / MIB:,.0f} MiB)",
        main="MiB/s", limit=BATCHES, rival=contenders.Opledger.name,
    )
    for _ in range(setting.plan.rounds):
        bare_consumers(setting, topic, table)
        for contender in chosen(setting, [contenders.Opledger, contenders.AtLeastOnce, contenders.ExactlyOnce]):
            visit(contender(setting, topic), table, None)
    yield table


def bare_consumers(setting, topic, table):
    found = setting.load("catch-up", "--kafka", setting.broker.bootstrap, "--topic", topic.name, "--turns", 0)
    for row in found["rows"]:
        figures = row["figures"]
        rate = figures["once connected, events/s"]
        table.add(without_turn(row["of"]), {
            "events/s": rate,
            "MiB/s": rate * topic.bytes / topic.events / MIB,
            START: figures["connecting, s"],
            ALL_IN: figures["events/s"],
        })


def visit(contender, caught_up, reads):
    """One contender from an empty folder to its end."""
    say(contender.name)
    setting, topic = contender.setting, contender.topic
    broker_cpu, broker_disk = cpu(setting.broker.pid), setting.broker.disk()
    with contender:
        figures = catch_up(contender)
        figures["CPU µs/event"] = sum(map(cpu, contender.pids)) * 1e6 / topic.events
        figures["broker's CPU µs/event"] = (cpu(setting.broker.pid) - broker_cpu) * 1e6 / topic.events
        figures["resident MiB"] = contender.resident() / MIB
        figures["disk MiB"] = contender.disk() / MIB
        figures["written to the broker, MiB"] = max(0, setting.broker.disk() - broker_disk) / MIB
        if figures.pop("all"):
            figures["documents right"] = compare(contender)
            if reads:
                reads.add(contender.name, beside_a_constant(contender, reads))
        caught_up.add(contender.name, figures)


def beside_a_constant(contender, reads):
    """Reads of a ledger, with the limit measured before and after, so that other work of the
    machine affects both alike. Reads of other contenders are measured once."""
    read = partial(hammer, contender.setting, contender)
    if not isinstance(contender, contenders.Opledger):
        return read()
    limit = partial(constant, contender.setting, contender.topic, reads)
    before, figures, behind = limit(), read(), limit()
    around = mean(run["GET/s"] for run in (before, behind))
    return figures | {AROUND: figures["GET/s"] / around}


def catch_up(contender):
    """From the start of the process until every event can be read.

    The rate leaves out the start (of a JVM, of a consumer group): it counts from the
    moment when the first events are done, and without these.
    """
    plan, events = contender.setting.plan, contender.topic.events
    began = contender.process.began
    first, done_first, done = None, 0, 0
    while done < events and time.monotonic() - began < plan.patience:
        done = contender.progress()
        if done and first is None:
            first, done_first = time.monotonic(), done
        contender.process.check()
        if done < events:
            time.sleep(0.01)
    ended = time.monotonic()
    if not done:
        raise Failed(f"{contender.name} has done nothing in {plan.patience} s:\n{contender.process.errors()}")
    if done == done_first:
        # Done before the second sample.
        first, done_first = began, 0
    took = ended - first
    bytes_each = contender.topic.bytes / events
    return {
        "events/s": (done - done_first) / took,
        "MiB/s": (done - done_first) * bytes_each / took / MIB,
        START: first - began,
        ALL_IN: done / (ended - began),
        "all": done == events,
    }


def compare(contender):
    """Compares the documents of the sample with those of the plain fold. Returns their number."""
    for operation_id, expected in contender.topic.documents.items():
        found = contender.document(operation_id)
        if found != expected:
            raise Failed(
                f"{contender.name} has another document of {operation_id}:\n"
                f"found    {json.dumps(found, sort_keys=True)}\nexpected {json.dumps(expected, sort_keys=True)}"
            )
    return len(contender.topic.documents)


def hammer(setting, server):
    """Reads by the load program. The JVM has to compile the code first, so a
    warm-up of half the time is not counted."""
    seconds = setting.plan.hot_seconds
    warming = max(1, seconds // 2)
    used = sum(map(cpu, server.pids))
    found = setting.load(
        "hammer", "--address", server.address, "--documents", setting.topic("small").documents_file,
        "--seconds", seconds, "--warming", warming,
    )
    figures = found["rows"][0]["figures"]
    # Includes the warm-up, which is assumed to do as many reads per second.
    used = sum(map(cpu, server.pids)) - used
    figures["CPU µs/GET"] = used * 1e6 / (figures["read"] * (1 + warming / seconds))
    return {name: figures[name] for name in ("GET/s", "MiB/s", "p50 ms", "p99 ms", "CPU µs/GET")}


class Static:
    """A process that serves constant bytes."""

    def __init__(self, command, log, address=None):
        self.process = Process(command, log)
        self.address = address or self.process.address()
        self.pids = [self.process.pid]


def constant(setting, topic, table):
    command = [setting.load_program, "static-server", static_document(setting, topic)]
    return serve_static(setting, table, CONSTANT, command)


def nginx(setting, topic, table):
    if not setting.nginx:
        say("no nginx here: left out")
        return
    folder, port = static_document(setting, topic).parent, free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    command = [setting.nginx, "-e", folder / "nginx.log", "-c", folder / "nginx.conf"]
    serve_static(setting, table, "nginx, the same bytes from a file", command, f"127.0.0.1:{port}")


def static_document(setting, topic):
    """A file with one document of middle size, of those that the contenders serve."""
    folder = setting.folder / "static"
    folder.mkdir(exist_ok=True)
    documents = [json.dumps(d, separators=(",", ":"), ensure_ascii=False) for d in topic.documents.values() if d]
    documents.sort(key=len)
    (folder / "document").write_text(documents[len(documents) // 2])
    return folder / "document"


def serve_static(setting, table, name, command, address=None):
    server = Static(command, setting.folder / "static.log", address)
    try:
        wait_for(server)
        figures = hammer(setting, server)
    finally:
        server.process.end()
    table.add(name, figures)
    return figures


NGINX = """\
daemon off;
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    open_file_cache max=10 inactive=1h;
    default_type application/json;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} reuseport;
        root {folder};
        location /v1/operations/ {{ try_files /document =404; }}
    }}
}}
"""


def wait_for(server):
    host, _, port = server.address.partition(":")
    until = time.monotonic() + 10
    while True:
        server.process.check()
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise Failed(f"no server responds at {server.address}") from None
            time.sleep(0.05)


def rungs(setting):
    """The difference between the bare consumer and the ledger, part by part."""
    for bodies, what in (("small", "small bodies"), ("large", "bodies of 10 KB")):
        topic = setting.topic(bodies)
        table = Table(
            f"rungs-{bodies}",
            f"From a bare consumer to a ledger, each row with one part more: {topic.events:,} events, {what}",
            main="events/s", limit="dropped in batches",
        )
        add_rows(table, setting.rungs(topic))
        yield table


def ingest(setting):
    """Events over HTTP in batches of 100; a response is sent when they are durable."""
    events = setting.plan.ingest_events
    on_kafka = Table(
        "ingest-kafka", f"HTTP ingest on Kafka: {events:,} events, 6 senders, batches of 100, acks=all",
        main="posted/s", limit="bare producer, batch by batch",
    )
    embedded = Table(
        "ingest-embedded", f"HTTP ingest on the embedded log: {events:,} events, 6 senders, batches of 100",
        main="posted/s", limit="append and fdatasync",
    )
    for _ in range(setting.plan.rounds):
        add_rows(on_kafka, setting.load("ingest", "--events", events, "--kafka", setting.broker.bootstrap))
        add_rows(embedded, setting.load("ingest", "--events", events))
    yield on_kafka
    yield embedded


def latency(setting):
    """From a publish until it is visible, 2,000 events a second."""
    seconds = setting.plan.latency_seconds
    on_kafka = Table(
        "latency-kafka", f"Publish to visible on Kafka: 2,000 events/s for {seconds} s",
        main="p99 ms", limit="publish until a bare consumer has it",
    )
    embedded = Table(
        "latency-embedded", f"Publish to visible on the embedded log: 2,000 events/s for {seconds} s",
        main="p99 ms", limit="publish",
    )
    for _ in range(setting.plan.rounds):
        add_rows(on_kafka, setting.load("kafka-latency", "--kafka", setting.broker.bootstrap, "--seconds", seconds))
        add_rows(embedded, setting.load("latency", "--seconds", seconds))
    yield on_kafka
    yield embedded


def ledger(setting):
    """Measurements of opledger alone: memory with many operations, operations with many events."""
    plan = setting.plan
    memory = Table("memory", f"Memory with {plan.operations:,} operations of two events, on the embedded log", main="resident MiB")
    wide = Table("wide", f"{plan.wide_events:,} events in one operation, beside operations of ten", main="visible µs/event")
    for _ in range(plan.rounds):
        add_rows(memory, setting.load("memory", "--operations", plan.operations, "--rest", 5))
        add_rows(wide, setting.load("wide", "--events", plan.wide_events))
    yield memory
    yield wide


def serial(setting):
    """Processor time of an event by thread, with more and more workers."""
    plan = setting.plan
    workers = ",".join(map(str, plan.workers))
    found = setting.load(
        "serial", "--kafka", setting.broker.bootstrap, "--workers", workers, "--events", plan.events, "--turns", plan.rounds,
    )
    jobs = iter(found)
    for name, (figures, threads) in zip(("catch-up", "rebuild", "ingest"), zip(jobs, jobs)):
        job = f"{figures['settings']['job']}, {plan.events:,} events"
        whole = Table(f"serial-{name}", f"The serial part: {job}", main="events/s", plot="model")
        each = Table(f"serial-{name}-threads", f"Its threads: {job}", main="busiest µs/event", plot=None)
        add_rows(whole, figures)
        add_rows(each, threads)
        yield whole
        yield each


def add_rows(table, found):
    """Adds the rows of the load program. Rows that it measures several times become one row."""
    for row in found["rows"]:
        figures = {key: value for key, value in row["figures"].items() if not isinstance(value, (str, type(None)))}
        table.add(without_turn(row["of"]), figures)


def without_turn(name):
    return re.sub(r", (before|after|turn \d+)$", "", name)


PARTS = {
    "contenders": side_by_side,
    "bodies": with_large_bodies,
    "rungs": rungs,
    "ingest": ingest,
    "latency": latency,
    "ledger": ledger,
    "serial": serial,
}
