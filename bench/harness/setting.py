"""Shared by all parts: the programs, a broker, and topics that are filled once."""

import json
import os
import subprocess
from functools import cached_property
from pathlib import Path

from .tools import ROOT, Failed, busy, disk, free_port, run, say


class Setting:
    def __init__(self, plan, options, folder):
        self.plan = plan
        self.options = options
        self.folder = folder
        self._topics = {}
        self._broker = None
        # As root, PostgreSQL runs as another user.
        folder.chmod(0o711)

    def __enter__(self):
        say("checking for missing packages")
        lines = subprocess.run([ROOT / "scripts/bench-setup"], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        if lines.returncode != 0:
            raise Failed("scripts/bench-setup failed")
        programs = dict(line.split("=", 1) for line in lines.stdout.splitlines())
        self.jars, self.classes = programs["jars"], programs["classes"]
        self.postgres, self.nginx = programs["postgres"], programs["nginx"]
        self._build()
        if (others := busy()) > 0.3:
            say(f"{others:.1f} cores are busy with other work: the figures will not be reliable")
        return self

    def __exit__(self, *_):
        if self._broker:
            self._broker.stop()

    def _build(self):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opledger"
        target = Path(os.environ.get("CARGO_TARGET_DIR") or cache / "target")
        if not self.options.no_build:
            say("building")
            path = os.environ["PATH"] + os.pathsep + str(Path.home() / ".cargo/bin")
            command = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "opledger", "--example", "load", "--example", "rungs"]
            built = subprocess.run(command, cwd=ROOT, env=os.environ | {"CARGO_TARGET_DIR": str(target), "PATH": path})
            if built.returncode != 0:
                raise Failed("cargo build failed")
        self.opledger = self.options.binary or target / "release/opledger"
        self.load_program = target / "release/examples/load"
        self.rungs_program = target / "release/examples/rungs"
        for program in (self.opledger, self.load_program, self.rungs_program):
            if not program.is_file():
                raise Failed(f"{program} is not there")

    @property
    def broker(self):
        if not self._broker:
            self._broker = Broker(self.folder / "kafka")
        return self._broker

    def load(self, *arguments):
        """Runs the load program and returns its report."""
        return self._found([self.load_program, "--binary", self.opledger], arguments)

    def rungs(self, topic):
        """Reads a topic with more and more parts of the ledger."""
        options = ["--kafka", self.broker.bootstrap, "--topic", topic.name, "--turns", self.plan.rounds]
        return self._found([self.rungs_program], options)

    def _found(self, program, arguments):
        found = self.folder / "found.json"
        run([*program, "--folder", self.folder, "--json", found, *arguments], cwd=self.folder)
        return json.loads(found.read_text())

    def topic(self, bodies):
        """A topic with bodies of this kind, filled at the first call."""
        if bodies not in self._topics:
            events = self.plan.large_events if bodies == "large" else self.plan.events
            say(f"filling a topic with {events:,} events, bodies {bodies}")
            self._topics[bodies] = Topic(self, bodies, events)
        return self._topics[bodies]

    @cached_property
    def embedded(self):
        """A folder whose embedded log has the same events, published over HTTP."""
        from .contenders import Embedded

        return Embedded.fill(self)


class Topic:
    def __init__(self, setting, bodies, events):
        self.name = f"bench-{bodies}"
        self.bodies = bodies
        self.documents_file = setting.folder / f"{self.name}.documents"
        found = setting.load(
            "fill", "--kafka", setting.broker.bootstrap, "--topic", self.name,
            "--events", events, "--bodies", bodies, "--documents", self.documents_file,
        )["settings"]
        self.events = events
        self.bytes = found["bytes"]
        self.position = found["position"]
        # The offset after the last record of each partition.
        parts = (part.split(":") for part in self.position.split(","))
        self.ends = {partition: int(offset) + 1 for partition, offset in parts}
        lines = self.documents_file.read_text().splitlines()
        self.documents = {line["operation_id"]: line["document"] for line in map(json.loads, lines)}


class Broker:
    """A Kafka broker, started by scripts/kafka/kafka-local."""

    SETTINGS = """\
# All threads join the group before work begins, so no partition is reassigned later.
group.initial.rebalance.delay.ms=1000
"""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder
        port = free_port()
        extra = folder / "extra.properties"
        extra.write_text(self.SETTINGS)
        self._environment = os.environ | {
            "KAFKA_PORT": str(port),
            "KAFKA_DATA": str(folder),
            "KAFKA_HEAP_OPTS": "-Xms1g -Xmx1g",
            "KAFKA_EXTRA_PROPERTIES": str(extra),
        }
        say("starting a broker")
        # Its output goes to a file: the broker inherits it, and a pipe would stay open.
        with open(folder / "start.log", "wb") as log:
            started = subprocess.run(self._command("start"), env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if started.returncode != 0:
            raise Failed(f"the broker does not start:\n{(folder / 'start.log').read_text()}")
        self.bootstrap = f"127.0.0.1:{port}"
        self.pid = int((folder / "kafka.pid").read_text())

    def _command(self, verb):
        return [ROOT / "scripts/kafka/kafka-local", verb]

    def disk(self):
        return disk(self.folder / "log")

    def stop(self):
        subprocess.run(self._command("stop"), env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
