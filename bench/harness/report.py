"""Tables of figures with their medians and spread: as JSON, as Markdown, as plots.

report.json holds every table of the last run of each part; the rest is made from it.
"""

import json
from statistics import median

from . import plot

ORDER = [
    "catch-up", "get", "bodies", "rungs-small", "rungs-large", "ingest-kafka", "ingest-embedded", "latency-kafka", "latency-embedded", "memory", "wide",
    "scale-targets", "scale-catch-up", "scale-memory", "scale-disk", "scale-restart", "scale-get", "scale-list", "scale-wide",
]


# A figure of runs that were measured with the limit around each: a run is divided by its own.
AROUND = "of the limit around it"


class Table:
    """Rows of runs. `main` is the figure that counts, `limit` the row that it is compared
    with, `rival` the row whose figure is divided by each other one's. Figures of several
    kinds are not `plotted`."""

    def __init__(self, name, title, main, limit=None, rival=None, plotted=True):
        self.name, self.title, self.main, self.limit, self.rival = name, title, main, limit, rival
        self.plotted = plotted
        self.rows = {}

    def add(self, row, figures):
        self.rows.setdefault(row, []).append(figures)

    def facts(self):
        return {"title": self.title, "main": self.main, "limit": self.limit, "rival": self.rival, "plotted": self.plotted, "rows": summed_up(self)}


def summed_up(table):
    rows = {}
    for name, runs in table.rows.items():
        columns = dict.fromkeys(key for run in runs for key in run)
        figures = {}
        for column in columns:
            values = [run[column] for run in runs if column in run]
            figures[column] = {"median": median(values), "least": min(values), "most": max(values), "runs": values}
        rows[name] = {"runs": len(runs), "figures": figures}
    for row in rows.values():
        own = main(row, table)
        for key, other in (("of the limit", table.limit), ("opledger divided by it", table.rival)):
            if other in rows and own:
                compared = main(rows[other], table)
                row[key] = own / compared if other == table.limit else compared / own
        if AROUND in row["figures"]:
            row["of the limit"] = row["figures"][AROUND]["median"]
    return rows


def main(row, table):
    return row["figures"].get(table.main, {}).get("median")


def keep(folder, table, facts):
    folder.mkdir(parents=True, exist_ok=True)
    report = read(folder)
    report[table.name] = table.facts() | facts
    ordered = {name: report[name] for name in ORDER if name in report}
    (folder / "report.json").write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def read(folder):
    file = folder / "report.json"
    return json.loads(file.read_text()) if file.exists() else {}


def write(folder):
    report = read(folder)
    setups = {}
    out = ["# Measured\n", "Made by `bench/run`; what the rows are and how to read them: [README](../../README.md).\n"]
    for name, table in report.items():
        out += [f"## {table['title']}\n", *markdown(table), ""]
        if table.get("plotted", True):
            (folder / f"{name}.svg").write_text(plot.bars(table))
            out.append(f"![{name}]({name}.svg)\n")
        out.append(measured(table))
        setups.setdefault(setup(table), []).append(name)
    out.append("## With what\n")
    out += [f"{', '.join(names)}: {text}\n" for text, names in setups.items()]
    (folder / "report.md").write_text("\n".join(out))


def markdown(table):
    rows = table["rows"]
    columns = list(dict.fromkeys(column for row in rows.values() for column in row["figures"]))
    columns.remove(table["main"])
    heads = [table["main"], "least to most", "runs"]
    ratios = [key for key in ("of the limit", "opledger divided by it") if any(key in row for row in rows.values())]
    yield line(["", *heads, *ratios, *columns])
    yield line([":--"] + ["--:"] * (len(heads) + len(ratios) + len(columns)))
    for name, row in rows.items():
        figures = row["figures"]
        first = figures.get(table["main"])
        cells = [show(first["median"]), spread(first), str(row["runs"])] if first else [""] * 3
        cells += [ratio(row.get(key)) for key in ratios]
        cells += [show(figures[column]["median"]) if column in figures else "" for column in columns]
        yield line([name, *cells])


def spread(figure):
    return f"{show(figure['least'])} to {show(figure['most'])}" if len(figure["runs"]) > 1 else ""


def line(cells):
    return f"| {' | '.join(cells)} |"


def ratio(value):
    return "" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def show(value):
    """Three digits that count, or all before the point."""
    size = abs(value)
    if isinstance(value, int) or size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def measured(table):
    return f"{table['when']}, plan {table['plan']['name']}; load average at the end {table['load average'][0]}.\n"


def setup(table):
    facts = table["hardware"] | table["versions"]
    return "; ".join(f"{name}: {value}" for name, value in facts.items()) + "."
