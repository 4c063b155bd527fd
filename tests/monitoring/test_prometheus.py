# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics, rules and dashboard with the real Prometheus, node_exporter and Grafana's own types."""

from __future__ import annotations

import json
import pathlib
import random
import re
import shutil
import socket
import subprocess
import urllib.parse
from typing import Any, Iterator

import pytest
import requests
import yaml
from ansible_collections.pve.autosnap.plugins.filter import digest
from clusters import EXPECT, sick
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard
from simulator.running import Running, until
from test_playbooks import Control
from worlds import guest, world

FILES = pathlib.Path(digest.__file__).parents[2] / "playbooks" / "files" / "monitoring"
HERE = pathlib.Path(__file__).parent


def promtool(*arguments: str, **more: Any) -> str:
    run = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, **more)
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_the_metrics_are_as_prometheus_wants_them(tmp_path: pathlib.Path) -> None:
    with Running(sick(40)) as cluster:
        metrics = tmp_path / "a.prom"
        run = Control(tmp_path, cluster).run(
            "pve.autosnap.status", autosnap_guests="@all", autosnap_label=None, autosnap_expect=EXPECT,
            autosnap_metrics_file=str(metrics))
        assert run.returncode == 0, run.stdout
    assert promtool("check", "metrics", input=metrics.read_text()) == ""


def test_the_rules_are_right_and_fire_when_they_should(tmp_path: pathlib.Path) -> None:
    assert "11 rules found" in promtool("check", "rules", str(FILES / "alerts.yml"))
    for source in (FILES / "alerts.yml", HERE / "alerts_test.yml"):
        shutil.copy(source, tmp_path)
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)


def test_every_rule_and_panel_asks_for_metrics_that_there_are(tmp_path: pathlib.Path) -> None:
    """Names of the shipped files against those of real runs."""
    with Running(sick(40)) as cluster:
        control, text = Control(tmp_path, cluster), ""
        for book, more in (
                ("status", {"autosnap_expect": EXPECT, "autosnap_label": None}), ("snap", {"autosnap_fail_on": "never"})):
            file = tmp_path / (book + ".prom")
            control.run("pve.autosnap." + book, autosnap_guests="@all", autosnap_metrics_file=str(file), **more)
            text += file.read_text()
    made = set(re.findall(r"^(pve_autosnap_\w+)\{", text, re.M))
    for name in ("alerts.yml", "dashboard.json"):
        assert set(re.findall(r"pve_autosnap_\w+", (FILES / name).read_text().replace("name: pve_autosnap\n", ""))) <= made


def test_the_dashboard_is_what_grafana_takes() -> None:
    """Read into Grafana's own types and written again, nothing of it is lost."""
    text = (FILES / "dashboard.json").read_text()
    again = json.loads(JSONEncoder(sort_keys=True).encode(dashboard.Dashboard.from_json(json.loads(text))))

    def kept(given: Any, found: Any, where: str) -> None:
        if isinstance(given, dict):
            for key, value in given.items():
                assert key in found or value is None, where + "." + key
                if value is not None:
                    kept(value, found[key], where + "." + key)
        elif isinstance(given, list):
            assert len(given) == len(found), where
            for number, value in enumerate(given):
                kept(value, found[number], "{0}[{1}]".format(where, number))
        else:
            assert given == found, where

    made = json.loads(text)
    kept(made, again, "dashboard")
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    for panel in made["panels"]:
        place = panel["gridPos"]
        assert panel["type"] in ("stat", "timeseries", "table", "bargauge") and isinstance(panel["title"], str)
        assert all(isinstance(place[key], int) for key in "xywh") and place["x"] + place["w"] <= 24
        assert all(isinstance(target["expr"], str) and target["refId"] for target in panel["targets"])


def free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(name="servers")
def fixture_servers(tmp_path: pathlib.Path) -> Iterator[str]:
    """node_exporter on a directory of metrics, and Prometheus, which asks it each second; its rules take 40 s for 26 hours."""
    # Below the ports that Linux gives to connections: nobody gets one of these by chance before the servers do.
    ports = [port for port in random.sample(range(20000, 32000), 50) if free(port)][:2]
    rules = yaml.safe_load((FILES / "alerts.yml").read_text().replace("26 * 3600", "40"))
    for rule in rules["groups"][0]["rules"]:
        rule.pop("for", None)
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": ["127.0.0.1:{0}".format(ports[0])]}]}]}))
    (tmp_path / "textfile").mkdir()
    started = [
        subprocess.Popen([
            "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
            "--collector.textfile.directory={0}".format(tmp_path / "textfile"),
            "--web.listen-address=127.0.0.1:{0}".format(ports[0])], stderr=subprocess.DEVNULL),
        subprocess.Popen([
            "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:{0}".format(ports[1])], cwd=tmp_path, stderr=subprocess.DEVNULL)]
    yield "http://127.0.0.1:{0}".format(ports[1])
    for process in started:
        process.terminate()
        process.wait(30)


def answer(server: str, path: str) -> Any:
    try:
        return requests.get(server + path, timeout=5).json()["data"]
    except requests.RequestException:
        return {}


def test_an_alert_fires_when_a_run_is_withheld(servers: str, tmp_path: pathlib.Path) -> None:
    def value(query: str) -> Any:
        found = answer(servers, "/api/v1/query?query=" + urllib.parse.quote(query)).get("result")
        return found[0]["value"][1] if found else None

    def firing() -> set[str]:
        alerts = answer(servers, "/api/v1/alerts").get("alerts", [])
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    with Running(world(guest(100), guest(101))) as cluster:
        control = Control(tmp_path, cluster)
        variables = {"autosnap_keep": 2, "autosnap_metrics_file": str(tmp_path / "textfile" / "daily.prom"),
                     "autosnap_max_run_age": "40s"}
        assert control.run("pve.autosnap.snap", **variables).returncode == 0
        assert until(lambda: value('pve_autosnap_guests{status="created"}')) == "2"
        assert "AutosnapNotRunning" not in firing()
        # Every panel of the dashboard gets an answer.
        for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
            for target in panel["targets"]:
                asked = target["expr"].replace("$cluster", ".*").replace("$job_name", ".*")
                found = answer(servers, "/api/v1/query?query=" + urllib.parse.quote(asked))
                assert found.get("result") or panel["title"] == "Guests by health", (panel["title"], found)
        # No run for as long as the rules allow.
        alerts = until(lambda: firing() if "AutosnapNotRunning" in firing() else None, 120)
        print(sorted(alerts))
        assert {"AutosnapNotRunning", "AutosnapNoSuccess", "AutosnapGuestStale"} <= alerts
        assert "AutosnapRunFailed" not in alerts
        assert control.run("pve.autosnap.snap", **variables).returncode == 0
        until(lambda: "AutosnapNotRunning" not in firing())
        assert value("node_textfile_scrape_error") == "0"
