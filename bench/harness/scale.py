"""The cost of very many operations: opledger alone, at several sizes, compared with its
targets."""

from statistics import median

from .parts import add_rows, without_turn
from .report import Table
from .tools import say

WITH_COMPACTION = "all of them, with what was left to compact"
AT_REST = "at rest"


def sizes(setting):
    """Reads a topic of each size from its beginning, then measures the resulting ledger."""
    plan = setting.plan
    tables = {
        "catch-up": Table("scale-catch-up", "Catch-up by stretches: short operations of five events, 6 partitions", main="CPU µs/event"),
        "memory": Table("scale-memory", "Resident memory, the most of each stretch", main="peak MiB"),
        "restart": Table("scale-restart", "From the start of the program to the first right read", main="s to the first right read"),
        "get": Table("scale-get", "GET of a document, 32 connections", main="GET/s"),
        "list": Table("scale-list", "All operations in one response", main="documents/s"),
        "disk": Table("scale-disk", "Bytes on disk for each event", main="bytes/event"),
    }
    for _ in range(plan.rounds):
        for operations in plan.scale:
            say(f"{operations:,} operations")
            found = setting.load(
                "scale", "--kafka", setting.broker.bootstrap, "--broker-folder", setting.broker.folder / "log",
                "--operations", operations, "--seconds", plan.hot_seconds,
            )
            for report in found:
                sort_in(report, operations, tables)
    yield judged(tables, plan.scale)
    yield from tables.values()


def sort_in(report, operations, tables):
    what = report["what"].removeprefix("scale: ")
    for row in report["rows"]:
        name = name_of(operations, without_turn(row["of"]))
        figures = {key: value for key, value in row["figures"].items() if value is not None}
        if what == "catch-up":
            memory = {key: figures.pop(key) for key in ("peak MiB", "resident MiB") if key in figures}
            if memory:
                tables["memory"].add(name, memory)
            if "CPU µs/event" in figures:
                tables["catch-up"].add(name, figures)
        elif what == "reads":
            tables["get" if "GET/s" in figures else "list"].add(name, figures)
        else:
            tables[what].add(name, figures)


def name_of(operations, row):
    return f"{operations:,}: {row}"


def judged(tables, scale):
    """Each target with the measured value."""
    least, most = min(scale), max(scale)
    table = Table("scale-targets", f"Against the targets, with {most:,} operations", main="measured", plot=None)

    def figure(name, operations, row, column):
        return median(run[column] for run in tables[name].rows[name_of(operations, row)])

    def add(name, measured, **bound):
        table.add(name, {"measured": measured} | {key.replace("_", " "): value for key, value in bound.items()})

    def beside_the_first(row):
        """The cost of an event, divided by that of the first 100,000 operations of the same run."""
        both = [tables["catch-up"].rows[name_of(most, one)] for one in (row, "operations 0 to 100000")]
        return median(run["CPU µs/event"] / first["CPU µs/event"] for run, first in zip(*both))

    if most > 100_000:
        same_run = "÷ the first 100,000 operations of the same run"
        add(f"cost of an event, the last tenth {same_run}", beside_the_first("the last tenth"), at_most=1.3)
        add(f"cost of an event, all of them with compaction {same_run}", beside_the_first(WITH_COMPACTION), at_most=1.3)
    if most > least:
        cost = [figure("catch-up", size, WITH_COMPACTION, "CPU µs/event") for size in (most, least)]
        add(f"cost of an event, all of them with compaction ÷ that of a topic of {least:,}", cost[0] / cost[1])
    peaks = {size: max(
        run["peak MiB"] for row, runs in tables["memory"].rows.items() if row.startswith(name_of(size, "")) for run in runs
    ) for size in scale}
    add("resident at most, MiB", peaks[most], at_most=512)
    add("resident at rest, MiB", figure("memory", most, AT_REST, "resident MiB"), at_most=512)
    if 1_000_000 in peaks and most > 1_000_000:
        add("resident at most, ÷ that at 1,000,000", peaks[most] / peaks[1_000_000], at_most=1.0)
    store = figure("disk", most, "store at the end, flushed and closed", "bytes/event")
    add("bytes of the store ÷ of the topic, lz4", store / figure("disk", most, "topic, lz4", "bytes/event"), at_most=1.2)
    zstd = [row for row in tables["disk"].rows if row.startswith(name_of(most, "topic, zstd"))]
    if zstd:
        add("bytes of the store ÷ of the topic, zstd", store / median(run["bytes/event"] for run in tables["disk"].rows[zstd[0]]))
    restart = "s to the first right read"
    add("restart, clean, s", figure("restart", most, "clean", restart), at_most=1)
    add("restart, clean, nothing in the kernel's cache, s", figure("restart", most, "clean, nothing in the kernel's cache", restart))
    add("restart after kill -9 under load, s", figure("restart", most, "kill -9 under load", restart), at_most=2)
    cold = tables["get"].rows[name_of(most, "GET of any, nothing in the kernel's cache")]
    if all("disk reads/GET" in run for run in cold):
        add("disk reads of a cold GET", median(run["disk reads/GET"] for run in cold))
    whole = "format=detail-list, whole"
    documents = figure("list", most, whole, "documents/s")
    add("detail-list, documents/s ÷ hot GET/s", documents / figure("get", most, "GET, hot", "GET/s"), at_least=2)
    if most > least:
        add(f"detail-list, documents/s ÷ those at {least:,}", documents / figure("list", least, whole, "documents/s"), at_least=1)
    return table


def wide(setting):
    events = setting.plan.wide_events
    table = Table("scale-wide", f"{events:,} events in one operation, beside operations of ten (at most 1.5 times)", main="visible µs/event")
    for _ in range(setting.plan.rounds):
        add_rows(table, setting.load("wide", "--events", events))
    yield table


PARTS = {"sizes": sizes, "wide": wide}
