"""Processes that are started, watched and ended, and small helpers around them."""

import http.client
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """Ends the run; its text says why."""


def say(what):
    print(f"bench: {what}", flush=True)


def run(command, **more):
    """Returns the output of a program. If the program fails, the run fails and shows its output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **more)
    if done.returncode != 0:
        raise Failed(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def free_port():
    """A free port. The next one is free, too, because the broker's controller uses it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


class Process:
    """A program that runs until `end`. Its figures include its children."""

    def __init__(self, command, log, stop=signal.SIGTERM, **more):
        self.began = time.monotonic()
        self.log = log
        self.stop = stop
        self._errors = open(log, "ab")
        self._child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            **more,
        )
        self.pid = self._child.pid

    def address(self):
        """The first line that it prints has `http://HOST:PORT`."""
        line = self._child.stdout.readline().decode(errors="replace")
        found = re.search(r"http://([\d.]+:\d+)", line)
        if not found:
            raise Failed(f"{self._child.args[0]} printed {line!r}:\n{self.errors()}")
        return found[1]

    def errors(self):
        return Path(self.log).read_text(errors="replace")[-4000:]

    def check(self):
        if self._child.poll() is not None:
            raise Failed(f"{self._child.args[0]} exited on its own with {self._child.returncode}:\n{self.errors()}")

    def end(self):
        if self._child.poll() is None:
            self._child.send_signal(self.stop)
            try:
                self._child.wait(60)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._child.stdout.close()
        self._errors.close()


def children(pid):
    """The process and all its descendants."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        below = []
    return [pid] + [one for child in below for one in children(int(child))]


def cpu(pid):
    """Processor seconds of a process and its children, exited ones included."""
    ticks = 0
    for one in children(pid):
        try:
            # The name may contain parentheses, so it ends at the last one.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # Its own time, and that of exited children.
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy():
    """The number of busy cores, measured over a second."""

    def idle_and_all():
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)

    idle, total = idle_and_all()
    time.sleep(1)
    idle_later, total_later = idle_and_all()
    return (1 - (idle_later - idle) / max(1, total_later - total)) * os.cpu_count()


def resident(pid):
    """Bytes of a process and its children; shared memory counts once."""
    total = 0
    for one in children(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) * 1024
    return total


def disk(folder):
    """Bytes on disk below a folder."""
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(path, file)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


class Client:
    """A keep-alive connection."""

    def __init__(self, address):
        host, _, port = address.partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=120)

    def get(self, path, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def close(self):
        self._connection.close()
