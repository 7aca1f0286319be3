"""The hardware and the versions of a measurement."""

import os
import re
import subprocess
import time
from pathlib import Path

from .tools import ROOT


def facts(setting):
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "hardware": hardware(setting.folder),
        "versions": versions(setting),
        "load average": Path("/proc/loadavg").read_text().split()[:3],
        "plan": vars(setting.plan),
    }


def hardware(folder):
    def field(file, name):
        found = re.search(rf"^{name}\s*:\s*(.*)$", Path(file).read_text(), re.M)
        return found[1] if found else "?"

    mounted = subprocess.run(["findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)], capture_output=True, text=True)
    return {
        "processor": field("/proc/cpuinfo", "model name"),
        "cores used": len(os.sched_getaffinity(0)),
        "cores there": os.cpu_count(),
        "memory": field("/proc/meminfo", "MemTotal"),
        "system": f"Linux {os.uname().release}",
        "file system": mounted.stdout.strip() or "?",
    }


def versions(setting):
    jars = {jar.name.rsplit("-", 1)[0]: jar.stem.rsplit("-", 1)[1] for jar in Path(setting.jars).glob("*.jar")}
    lock = (ROOT / "Cargo.lock").read_text()

    def crate(name):
        found = re.search(rf'name = "{name}"\nversion = "([^"]+)"', lock)
        return found[1] if found else "?"

    return {
        "opledger": said(setting.opledger, "--version"),
        "commit": commit(),
        "librdkafka (crate rdkafka-sys)": crate("rdkafka-sys"),
        "RocksDB (crate librocksdb-sys)": crate("librocksdb-sys"),
        "Kafka and Kafka Streams": jars.get("kafka-streams", "?"),
        "RocksDB of Kafka Streams": jars.get("rocksdbjni", "?"),
        "Java": said("java", "-version"),
        "PostgreSQL": said(f"{setting.postgres}/postgres", "--version") if setting.postgres else "none",
        "JDBC driver": jars.get("postgresql", "?"),
        "nginx": said(setting.nginx, "-v") if setting.nginx else "none",
    }


def said(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()

    short = git("rev-parse", "--short", "HEAD")
    return (short or "?") + (", with changes" if git("status", "--porcelain", "--", "src", "bench/load", "Cargo.toml") else "")
