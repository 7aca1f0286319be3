"""The amounts of load: the quick plan, the full one and the scale one."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    name: str
    rounds: int
    events: int
    # Events with bodies of 10 KB.
    large_events: int
    hot_seconds: int
    ingest_events: int
    latency_seconds: int
    # For the parts that only opledger has.
    operations: int
    wide_events: int
    # Seconds. A contender that has not caught up by then is measured by the events it has applied.
    patience: int
    # Of the serial part.
    workers: tuple = (1, 2, 4, 8)
    # The operations of each topic of the scale plan.
    scale: tuple = ()

    def with_changes(self, options):
        changes = {name: value for name in ("rounds", "events") if (value := getattr(options, name, None))}
        if options.workers:
            changes["workers"] = tuple(sorted(options.workers))
        if options.operations:
            changes["scale"] = tuple(sorted(options.operations))
        return replace(self, **changes)


QUICK = Plan(
    name="quick",
    rounds=1,
    events=200_000,
    large_events=10_000,
    hot_seconds=3,
    ingest_events=100_000,
    latency_seconds=5,
    operations=50_000,
    wide_events=10_000,
    patience=60,
)

FULL = Plan(
    name="full",
    rounds=3,
    events=1_000_000,
    large_events=50_000,
    hot_seconds=10,
    ingest_events=500_000,
    latency_seconds=20,
    operations=1_000_000,
    wide_events=100_000,
    patience=400,
)

SCALE = replace(
    FULL,
    name="scale",
    rounds=1,
    scale=(100_000, 1_000_000, 10_000_000),
)
