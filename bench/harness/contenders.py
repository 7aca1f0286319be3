"""Programs that turn the topic into documents: each is started on an empty folder,
queried for its progress, and ended."""

import json
import os
import pwd
import re
import shutil
import signal
import time

from .tools import ROOT, Client, Failed, Process, disk, free_port, resident, run

JAVA = ["java", "-Xms1g", "-Xmx1g", "-XX:+UseParallelGC"]


class Contender:
    """Used as a context manager: leaving it ends the program and removes its data."""

    def __init__(self, setting, topic):
        self.setting = setting
        self.topic = topic
        self.folder = setting.folder / "contender"

    def __enter__(self):
        self.folder.mkdir()
        self.process = None
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def launch(self, command, **more):
        self.process = Process(command, self.setting.folder / "contender.log", **more)
        self.address = self.process.address()
        self.client = Client(self.address)

    @property
    def pids(self):
        return [self.process.pid]

    def resident(self):
        return sum(map(resident, self.pids))

    def disk(self):
        return disk(self.folder)

    def document(self, operation_id):
        status, body = self.client.get(f"/v1/operations/{operation_id}")
        if status not in (200, 404):
            raise Failed(f"{self.name}: {status} for {operation_id}: {body[:500]}")
        return json.loads(body) if status == 200 else None


class Opledger(Contender):
    """On the Kafka topic, with everything on: history, indexes, outbox, dead letters."""

    name = "opledger on Kafka"
    key = "opledger"

    def start(self):
        self.serve(self.folder / "data", "--kafka", self.setting.broker.bootstrap, "--topic", self.topic.name)

    def serve(self, data, *more):
        command = [self.setting.opledger, "serve", *more, "--data", data, "--listen", "127.0.0.1:0"]
        self.launch(command, env=os.environ | {"OPLEDGER_TELEMETRY__LOG": "warn"})

    token = None
    running = False

    def progress(self):
        """The number of readable events. After the first ones it waits until all are readable."""
        if not self.running:
            found = re.search(rb"^opledger_events_applied_total (\d+)", self.client.get("/metrics")[1], re.M)
            self.running = bool(found and int(found[1]))
            return int(found[1]) if found else 0
        if not self.token:
            log = json.loads(self.client.get("/version")[1])["log"]
            self.token = f"{log};{self.topic.position}"
        # Responds as soon as all events are readable. Any dead letter would be a mistake.
        status, body = self.client.get("/v1/dead-letters?limit=1", ledger_position=self.token, prefer="wait=30")
        if status == 504:
            return 1 # slow, but not stuck
        if status != 200 or json.loads(body) != {"dead_letters": []}:
            raise Failed(f"opledger: {status}: {body[:500]}")
        return self.topic.events


class Embedded(Opledger):
    """On its embedded log, which has the same events. Its store is removed before, and rebuilt from the log."""

    name = "opledger on its embedded log"
    key = "embedded"

    @classmethod
    def fill(cls, setting):
        contender = cls(setting, setting.topic("small"))
        data = setting.folder / "embedded"
        contender.serve(data)
        try:
            filled = setting.load("fill", "--http", contender.address, "--events", contender.topic.events, "--sample", 1)
            contender.token = filled["settings"]["position"]
            while contender.progress() < contender.topic.events:
                pass
        finally:
            contender.process.end()
        return data, contender.token

    def start(self):
        data, self.token = self.setting.embedded
        shutil.rmtree(data / "store")
        self.data = data
        self.serve(data)

    def disk(self):
        return disk(self.data)


class Streams(Contender):
    """Kafka Streams. An event counts as soon as it can be read, not when it is committed."""

    def start(self):
        main = ["StreamsLedger", self.setting.broker.bootstrap, self.topic.name, self.guarantee, self.folder / "state"]
        self.launch([*java(self.setting), *main])

    def progress(self):
        return read_progress(self)


class AtLeastOnce(Streams):
    name = "Kafka Streams, at_least_once"
    key = "streams"
    guarantee = "at_least_once"


class ExactlyOnce(Streams):
    name = "Kafka Streams, exactly_once_v2"
    key = "streams-eos"
    guarantee = "exactly_once_v2"


class Postgres(Contender):
    """A consumer that upserts into PostgreSQL."""

    name = "PostgreSQL, batched upsert"
    key = "postgres"

    # For a machine of some gigabytes. All other settings are Debian's defaults. Syncs stay on.
    SETTINGS = {
        "shared_buffers": "512MB",
        "max_wal_size": "8GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "lz4",
        "default_toast_compression": "lz4",
        "jit": "off",
        "listen_addresses": "127.0.0.1",
    }

    def start(self):
        self.database = None
        programs = self.setting.postgres
        user = []
        if os.geteuid() == 0:
            # PostgreSQL does not run as root.
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                owner = pwd.getpwnam("nobody")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        data, port = self.folder / "data", free_port()
        run([*user, f"{programs}/initdb", "-D", data, "-A", "trust", "-U", "bench", "-E", "UTF8", "--locale=C"], cwd=self.folder)
        settings = self.SETTINGS | {"port": port, "unix_socket_directories": self.folder}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # SIGINT is PostgreSQL's fast shutdown.
        self.database = Process(
            [*user, f"{programs}/postgres", "-D", data, *options],
            self.setting.folder / "postgres.log", stop=signal.SIGINT, cwd=self.folder,
        )
        ask = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        until = time.monotonic() + 60
        while os.spawnv(os.P_WAIT, ask[0], ask) != 0:
            self.database.check()
            if time.monotonic() > until:
                raise Failed(f"PostgreSQL does not respond:\n{self.database.errors()}")
            time.sleep(0.1)
        url = f"jdbc:postgresql://127.0.0.1:{port}/postgres?user=bench"
        self.launch([*java(self.setting), "PostgresLedger", self.setting.broker.bootstrap, self.topic.name, url])

    def __exit__(self, *_):
        if self.process:
            self.process.end()
        if self.database:
            self.database.end()
        self.process = None
        super().__exit__()

    @property
    def pids(self):
        return [self.process.pid, self.database.pid]

    def progress(self):
        return read_progress(self)


def java(setting):
    logging = f"-Dlog4j2.configurationFile={ROOT}/bench/java/log4j2.properties"
    return [*JAVA, logging, "-cp", f"{setting.classes}:{setting.jars}/*"]


def read_progress(contender):
    status, body = contender.client.get("/progress")
    if status != 200:
        raise Failed(f"{contender.name}: {status}: {body[:500]}")
    progress = json.loads(body)
    if progress["bad"]:
        raise Failed(f"{contender.name} cannot read {progress['bad']} events")
    return sum(min(progress["readable"].get(p, 0), end) for p, end in contender.topic.ends.items())


ALL = [Opledger, Embedded, AtLeastOnce, ExactlyOnce, Postgres]
