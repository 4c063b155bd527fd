# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of docs/automation.md: the schemas of who reads them, and their playbook runs against a simulated cluster."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
from typing import Any, Iterator

import pytest
import yaml
from simulator.running import Running
from worlds import SECRET, TOKEN, guest, names, world

pytestmark = pytest.mark.thorough
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "automation.md"
EXAMPLES = dict(re.findall(r"^`([^`]+)`:\n\n```yaml\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


@pytest.fixture(name="place")
def fixture_place(tmp_path: pathlib.Path) -> pathlib.Path:
    """The examples as files, where they belong."""
    for name, text in EXAMPLES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def checked(*arguments: str, **more: Any) -> str:
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False, **more)
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize(
    ("name", "schema"), [(".github/workflows/deploy.yml", "vendor.github-workflows"), (".gitlab-ci.yml", "vendor.gitlab-ci")])
def test_pipelines_are_what_their_service_takes(place: pathlib.Path, name: str, schema: str) -> None:
    more = ["--data-transform", "gitlab-ci"] if "gitlab" in schema else []
    checked("check-jsonschema", "--builtin-schema", schema, *more, str(place / name))
    wrong = yaml.safe_load((place / name).read_text())
    wrong[next(iter(wrong))] = 7
    (place / "wrong.yml").write_text(yaml.safe_dump(wrong))
    refused = subprocess.run(
        ["check-jsonschema", "--builtin-schema", schema, str(place / "wrong.yml")], capture_output=True, text=True, check=False)
    assert refused.returncode == 1


def test_the_rulebook_is_one(place: pathlib.Path) -> None:
    from ansible_rulebook.rules_parser import parse_rule_sets
    from ansible_rulebook.validators import Validate

    given = yaml.safe_load((place / "rulebook.yml").read_text())
    Validate.rulebook(given)
    (rule_set,) = parse_rule_sets(given, {"WEBHOOK_TOKEN": "t"})
    assert [rule.actions[0].action for rule in rule_set.rules] == ["run_workflow_template"]
    assert rule_set.sources[0].source_name == "eda.builtin.webhook"


@pytest.fixture(name="cluster")
def fixture_cluster() -> Iterator[Running]:
    with Running(world(guest(100))) as cluster:
        yield cluster


def control(place: pathlib.Path, cluster: Running) -> dict[str, str]:
    """daily.yml and the environment of somebody who runs the examples."""
    (place / "daily.yml").write_text(json.dumps({
        "autosnap_api_host": cluster.hosts, "autosnap_ca_path": cluster.ca, "autosnap_guests": "@all", "autosnap_label": "daily",
        "autosnap_keep": 7}))
    return {
        "PATH": os.environ["PATH"], "HOME": str(place), "LANG": "C.UTF-8", "PROXMOX_TOKEN": "{0}={1}".format(TOKEN, SECRET),
        "ANSIBLE_COLLECTIONS_PATH": os.environ["AUTOSNAP_COLLECTIONS"], "NO_PROXY": "127.0.0.1", "RUN": "4711", "TERM": "dumb"}


def test_the_runs_of_the_pipelines(place: pathlib.Path, cluster: Running) -> None:
    environment = control(place, cluster)
    github = yaml.safe_load(EXAMPLES[".github/workflows/deploy.yml"])["jobs"]["snapshot"]["steps"][-1]["run"]
    checked("bash", "-ec", github.replace(".venv/bin/", ""), cwd=place, env=environment)
    (taken,) = cluster.pve.guest(100).snapshots.values()
    assert taken["description"].splitlines()[1] == 'autosnap: {"run": "4711"}'
    for line in yaml.safe_load(EXAMPLES[".gitlab-ci.yml"])["snapshot"]["script"]:
        checked("bash", "-ec", line, cwd=place, env=environment)
    assert len(names(cluster, 100)) == 2 and "vm100" in (place / "report.html").read_text()


def test_ansible_navigator(place: pathlib.Path, cluster: Running) -> None:
    """Its settings by its own schema, and the command of the page without a container."""
    environment = control(place, cluster)
    schema = checked(
        "ansible-navigator", "settings", "--schema", "json", "--mode", "stdout", "--ee", "false", env=environment, cwd="/")
    (place / "schema.json").write_text(schema)
    settings = place / "ansible-navigator.yml"
    checked("check-jsonschema", "--schemafile", str(place / "schema.json"), str(settings))
    # What is mounted has to be there, even where nothing is.
    settings.write_text(settings.read_text().replace("src: /etc/autosnap", "src: {0}".format(place)))
    command = next(line for line in PAGE.read_text().splitlines() if line.startswith("    ansible-navigator run"))
    checked(*shlex.split(command), "--ee", "false", cwd=place, env=environment)
    assert len(names(cluster, 100)) == 1
