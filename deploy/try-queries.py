"""Evaluates the dashboard and the alerts in a Prometheus that has seen a ledger at work.

usage: try-queries.py PROMETHEUS_URL INSTANCE BEGAN SETTLED ENDED FOLDER
By deploy/try-queries. The times are Unix seconds: at SETTLED the ledger was well again, until ENDED
worse was done to it. FOLDER has its /metrics of SETTLED and, of several moments, the alerts.
"""

import json
import math
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DASHBOARD = json.loads(Path("deploy/grafana/opledger.json").read_text())

# More than the 5 s of librdkafka's reports, and less than the outage, so that some
# windows have no event: a query that is NaN then would show NaN in the dashboard.
RATE_INTERVAL = "10s"

# These have no series until their event happens, and it does not happen here.
RIGHTLY_EMPTY = {
    "opledger_store_failures_total": "the store refused no write",
}
# The traffic has to make these true; `for` is ignored.
MUST_BE_TRUE = {
    "OpledgerDown",
    "OpledgerProjectorHalted",
    "OpledgerProjectorWaiting",
    "OpledgerDeadLetters",
    "OpledgerLogTruncating",
    "OpledgerKafkaUnreachable",
    "OpledgerHighErrorRate",
    "OpledgerRateLimiting",
    "OpledgerWebhookFailedPermanently",
}
# These have to be more than 0 at some time; it is not enough that they exist.
MUST_RISE = {
    "opledger_events_applied_total",
    "opledger_projector_lag_records",
    "opledger_partition_lag_records",
    "opledger_dead_letters_total",
    "opledger_anomalies",
    "opledger_terminal_revised_total",
    "opledger_clock_ahead_total",
    "opledger_log_first_offset",
    "opledger_kafka_request_errors_total",
    "opledger_kafka_queue_records",
    "opledger_event_streams",
    "opledger_watched_operations",
    "opledger_webhook_attempts_total",
}

problems = []


class Prometheus:
    def __init__(self, url):
        self.url = url
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with self.opener.open(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            problems.append(f"{parameters.get('query', path)}: {error.read().decode()}")
            return {"result": []}

    def at(self, expression, time):
        return [(s["metric"], float(s["value"][1])) for s in self.ask("query", query=expression, time=time)["result"]]

    def during(self, expression, start, end):
        found = self.ask("query_range", query=expression, start=start, end=end, step=1)["result"]
        return [(s["metric"], [float(value) for _, value in s["values"]]) for s in found]


def panels():
    """(title, expression, legend) of every query."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", target["expr"], target.get("legendFormat", "")
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"], annotation["titleFormat"] + annotation["textFormat"]


def shown(number):
    return f"{number:.4g}" if abs(number) < 1e6 else f"{number:.0f}"


def spread(values):
    values = [value for value in values if not math.isnan(value)]
    return f"{shown(min(values))} … {shown(max(values))}" if values else "NaN"


def name(labels):
    return "{" + ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key not in ("job", "__name__")) + "}"


def sample(series):
    """The highest."""
    if not series:
        return "-"
    labels, value = max(series, key=lambda one: -math.inf if math.isnan(one[1]) else one[1])
    return f"{shown(value)} {name(labels)}"


def excuse(expression):
    return next((why for metric, why in RIGHTLY_EMPTY.items() if metric in expression), None)


def row(*cells):
    print("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")


def try_dashboard(prometheus, instance, began, settled):
    row("panel", "query", "series", "at the end", "lowest", "highest")
    row(*["---"] * 6)
    pattern = re.escape(instance).replace("\\", "\\\\")
    for title, expression, legend in panels():
        query = expression.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", pattern)
        now = prometheus.at(query, settled)
        ever = prometheus.during(query, began, settled)
        numbers = [value for _, values in ever for value in values]
        highest = sample([(labels, max(values)) for labels, values in ever])
        lowest = shown(min(numbers)) if numbers else "-"
        row(title, f"`{expression}`", len(ever), len(now), lowest, highest)
        if not ever and not excuse(query) and not title.startswith("annotation"):
            problems.append(f"panel {title}: no series")
        if not all(math.isfinite(number) for number in numbers):
            problems.append(f"panel {title}: NaN or infinite")
        rises = any(metric in query for metric in MUST_RISE)
        if rises and not any(number > 0 for number in numbers):
            problems.append(f"panel {title}: never more than 0")
        if any(number < 0 for number in numbers):
            problems.append(f"panel {title}: negative")
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            if any(label not in labels for labels, _ in ever):
                problems.append(f"panel {title}: its legend names {label}, which a series does not have")


def try_variables(prometheus, instance):
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] != "query":
            continue
        if found := re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]):
            values = prometheus.ask(f"label/{found[2]}/values", **{"match[]": found[1]})
            if values != [instance]:
                problems.append(f"variable {variable['name']}: {values}")


def try_alerts(prometheus, began, ended):
    row("alert", "series ever true", "seconds true", "value", "series of its operands")
    row(*["---"] * 5)
    groups = prometheus.ask("rules", type="alert")["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        alert, expression = rule["name"], rule["query"]
        if rule.get("lastError"):
            problems.append(f"alert {alert}: {rule['lastError']}")
        ever = prometheus.during(expression, began, ended)
        values = [value for _, values in ever for value in values]
        operands = []
        for selector in sorted(set(re.findall(r"\b(?:up|opledger_[a-z_]+)(?:\{[^}]*\})?", expression))):
            found = prometheus.during(selector, began, ended)
            operands.append(f"`{selector}` {len(found)}")
            if not found and not excuse(selector):
                problems.append(f"alert {alert}: no series of {selector}")
        longest = max((len(values) for _, values in ever), default=0)
        true = sample([(labels, values[-1]) for labels, values in ever])
        row(alert, len(ever), longest, f"{true}; {spread(values)}" if ever else "-", ", ".join(operands))
        # Prometheus writes nothing for a missing label.
        for label in sorted(set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))):
            if any(label not in labels for labels, _ in ever):
                problems.append(f"alert {alert}: its text names {label}, which a series does not have")
        if alert in MUST_BE_TRUE and not ever:
            problems.append(f"alert {alert}: was never true")


def show_alerts(folder):
    """The alerts that would have fired."""
    row("when", "alert", "summary")
    row(*["---"] * 3)
    for moment in ("outage", "settled", "halted", "down"):
        for alert in json.loads((folder / f"alerts-{moment}.json").read_text())["data"]["alerts"]:
            summary, description = alert["annotations"]["summary"], alert["annotations"]["description"]
            row(moment, f"{alert['labels']['alertname']} {alert['state']}", summary)
            if "error expanding" in summary + description:
                problems.append(f"alert {alert['labels']['alertname']}: {summary}: {description}")


def check_coverage(metrics):
    families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", metrics, re.M))
    described = set(re.findall(r"^# HELP (\w+) ", metrics, re.M))
    queried = set(re.findall(r"\bopledger_\w+", " ".join(expression for _, expression, _ in panels())))
    queried = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in queried}
    for family in sorted(families):
        if family not in described:
            problems.append(f"{family} has no HELP")
        if family.startswith("opledger_") and family not in queried:
            problems.append(f"{family} is on no panel")
    for metric in sorted(queried - set(families)):
        if metric not in RIGHTLY_EMPTY:
            problems.append(f"{metric} is on a panel and not in /metrics")
    print(f"{len(families)} metrics, {len(queried & set(families))} of them on the dashboard")


def main():
    url, instance, began, settled, ended, folder = sys.argv[1:]
    prometheus = Prometheus(url)
    try_variables(prometheus, instance)
    try_dashboard(prometheus, instance, began, settled)
    print()
    try_alerts(prometheus, began, ended)
    print()
    show_alerts(Path(folder))
    print()
    check_coverage((Path(folder) / "metrics").read_text())
    for problem in problems:
        print(f"try-queries: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


main()
