"""What the files of the deployment have to agree on, with each other and with the code.

usage: check-deploy.py RULES COMPOSE_CONFIG...
A COMPOSE_CONFIG is what `docker-compose config --format json` prints.
Writes the dashboard's queries as recording rules to RULES, for promtool to parse.
"""

import json
import re
import sys
from pathlib import Path

DASHBOARD = Path("deploy/grafana/opledger.json")
ALERTS = Path("deploy/alerts.yml")
METRICS = Path("src/metrics.rs").read_text()
HISTOGRAM_PARTS = re.compile(r"_(bucket|sum|count)$")
# Grafana fills these in before Prometheus sees a query.
GRAFANA_VARIABLES = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}

# These are librdkafka's.
FREE_SETTINGS = ("kafka.options.", "kafka.producer.", "kafka.consumer.")
# Of scripts/setup's packages, those that the program is built without.
NOT_FOR_THE_BUILD = {"curl", "strace"}

problems = []


def check_metric_names(texts):
    """A panel or an alert on a metric that nobody exports is no error to Grafana or Prometheus: it stays empty."""
    described = set(re.findall(r'"(opledger_[a-z0-9_]+)"', METRICS))
    histograms = set(re.findall(r'histogram "(opledger_[a-z0-9_]+)"', METRICS))
    for place, text in texts:
        for name in sorted(set(re.findall(r"\bopledger_[a-z0-9_]+", text))):
            base = HISTOGRAM_PARTS.sub("", name)
            if name in histograms:
                problems.append(f"{place}: {name} is a histogram; use its _bucket, _sum or _count")
            elif name not in described and base not in histograms:
                problems.append(f"{place}: no metric {name} in src/metrics.rs")


def check_coverage(dashboard):
    """A metric that no panel shows is not found when it is needed."""
    described = set(re.findall(r'(?:counter|gauge|histogram) "(opledger_[a-z0-9_]+)"', METRICS))
    queried = set(re.findall(r"\bopledger_[a-z0-9_]+", "\n".join(queries(dashboard))))
    for name in sorted(described - {HISTOGRAM_PARTS.sub("", metric) for metric in queried} - queried):
        problems.append(f"{DASHBOARD}: {name} is on no panel")


def check_dashboard(dashboard):
    """Mistakes that Grafana would show wrongly without an error."""
    ids, taken = set(), {}
    for panel in dashboard["panels"]:
        title = panel["title"]
        if panel["id"] in ids:
            problems.append(f"{DASHBOARD}: two panels have the id {panel['id']}")
        ids.add(panel["id"])
        grid = panel["gridPos"]
        if grid["x"] + grid["w"] > 24:
            problems.append(f"{DASHBOARD}: panel {title!r} is wider than the page")
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                other = taken.setdefault((x, y), title)
                if other != title:
                    problems.append(f"{DASHBOARD}: panel {title!r} lies on {other!r}")
                    break
        if panel["type"] != "row" and not panel.get("description"):
            problems.append(f"{DASHBOARD}: panel {title!r} does not say what it shows")


def queries(node):
    """Every expression of the dashboard, wherever it is."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield value
            else:
                yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


def as_rules(expressions):
    rules = []
    for number, expression in enumerate(expressions):
        for variable, value in GRAFANA_VARIABLES.items():
            expression = expression.replace(variable, value)
        rules.append({"record": f"panel:{number}", "expr": expression})
    return {"groups": [{"name": "dashboard", "rules": rules}]}


def known_settings():
    settings, section = set(), ""
    for line in Path("config.sample.toml").read_text().splitlines():
        if found := re.match(r"#?\[([a-z_.]+)\]$", line):
            section = found[1] + "."
        elif found := re.match(r"#?([a-z_]+) = ", line):
            settings.add(section + found[1])
    return settings


def check_settings(places):
    """An unknown setting keeps opledger from starting, which nobody sees before they try."""
    known = known_settings()
    for place, variable in sorted(places):
        setting = variable.removeprefix("OPLEDGER_").removesuffix("_FILE").lower().replace("__", ".")
        if setting not in known and not setting.startswith(FREE_SETTINGS):
            problems.append(f"{place}: {variable} is no setting of config.sample.toml")


def check_packages(dockerfile):
    """The list of every other build is used each day; this one may not be for weeks."""
    setup = re.search(r"^packages=\((.*?)\)", Path("scripts/setup").read_text(), re.M | re.S)
    build_stage = dockerfile.split("\nFROM ")[1]
    for package in sorted(set(setup[1].split()) - NOT_FOR_THE_BUILD - set(build_stage.split())):
        problems.append(
            f"Dockerfile: its build does not install {package}, as scripts/setup does:"
            " add it there, or to NOT_FOR_THE_BUILD in scripts/check-deploy.py"
        )


def check_mounts(compose):
    """`docker compose config` does not check whether they exist."""
    for service, settings in compose["services"].items():
        for volume in settings.get("volumes", []):
            if volume["type"] == "bind" and not Path(volume["source"]).exists():
                problems.append(f"docker-compose.yml: {service} mounts {volume['source']}, which is not there")


def main():
    rules, *compose_configs = sys.argv[1:]
    composes = [json.loads(Path(config).read_text()) for config in compose_configs]
    try:
        dashboard = json.loads(DASHBOARD.read_text())
    except json.JSONDecodeError as error:
        sys.exit(f"check-deploy: {DASHBOARD}: no JSON: {error}")
    dockerfile = Path("Dockerfile").read_text()

    check_metric_names([(DASHBOARD, "\n".join(expressions_and_names(dashboard))), (ALERTS, ALERTS.read_text())])
    check_dashboard(dashboard)
    check_coverage(dashboard)
    check_settings(
        {("compose", name) for compose in composes for name in compose["services"]["opledger"]["environment"]}
        | {("Dockerfile", name) for name in re.findall(r"\b(OPLEDGER_[A-Z0-9_]+)=", dockerfile)}
    )
    check_mounts(composes[0])
    check_packages(dockerfile)
    # JSON is YAML, too.
    Path(rules).write_text(json.dumps(as_rules(queries(dashboard)), indent=1))

    for problem in problems:
        print(f"check-deploy: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def expressions_and_names(dashboard):
    yield from queries(dashboard)
    # A variable asks for a metric without an expression.
    for variable in dashboard["templating"]["list"]:
        yield json.dumps(variable["query"])


if __name__ == "__main__":
    main()
