# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role awx_kit with the modules of awx.awx, against the simulated API of AWX."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
from typing import Any, Iterator

import pytest
import yaml
from api import ENCRYPTED, TOKEN, Api, named
from test_contract import PLAYBOOKS, defined
from unsafe import Dumper

SECRETS = ("11111111-aaaa", "hook-password-4711", TOKEN)


class Team:
    """Somebody with the playbook, the variables of the kit and a login of AWX."""

    def __init__(self, directory: pathlib.Path, api: Api, kit: dict[str, Any]) -> None:
        self.directory, self.api, self.kit = directory, api, kit
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8", "CONTROLLER_HOST": api.url,
            "CONTROLLER_OAUTH_TOKEN": TOKEN, "ANSIBLE_HOME": str(directory / ".ansible"), "NO_PROXY": "127.0.0.1",
            "ANSIBLE_COLLECTIONS_PATH": "{0}:{1}".format(os.environ["AUTOSNAP_COLLECTIONS"], os.environ["AUTOSNAP_BUNDLED"]),
            "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false"}

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        file = self.directory / "kit.yml"
        file.write_text(yaml.dump({**self.kit, **more}, Dumper=Dumper))
        return subprocess.run(
            ["ansible-playbook", "pve.autosnap.awx_kit", "-e", "@{0}".format(file), *arguments], env=self.environment,
            cwd=self.directory, capture_output=True, text=True, timeout=300, check=False)


def recap(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    line = next(line for line in run.stdout.splitlines() if line.startswith("localhost ") and "ok=" in line)
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}


@pytest.fixture(name="team")
def fixture_team(tmp_path: pathlib.Path, kit: dict[str, Any]) -> Iterator[Team]:
    with Api(PLAYBOOKS) as api:
        api.create("projects", {"name": "Servers", "organization": 1})
        api.create("inventories", {"name": "Servers", "organization": 1})
        api.create("job_templates", {
            "name": "Patch servers", "organization": 1, "inventory": 1, "project": 1, "playbook": "snap.yml"})
        yield Team(tmp_path, api, kit)


def test_made_once_then_nothing_changes_then_removed(team: Team) -> None:
    before = {kind: list(named(team.api, kind)) for kind in team.api.objects}
    dry = team.run("--check")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert team.api.writes == [] and recap(dry)["changed"] > 0
    first = team.run("-vvv")
    print(first.stdout)
    assert first.returncode == 0, first.stdout + first.stderr
    made = {kind: sorted(set(named(team.api, kind)) - set(before[kind])) for kind in team.api.objects}
    print(json.dumps(made, indent=1))
    assert made["job_templates"] == ["Autosnap - Clean", "Autosnap - Health", "Autosnap - Report", "Autosnap - Snap"]
    assert made["hosts"] == ["dev", "prod"] and made["schedules"] == ["Autosnap - Daily snapshots", "Autosnap - Weekly report"]
    assert made["workflow_job_template_nodes"] == ["patch", "snapshot", "verify"]
    assert made["notification_templates"] == ["Autosnap - Chat"] and len(team.api.surveys) == 5
    assert not [secret for secret in SECRETS if secret in first.stdout + first.stderr]
    writes = len(team.api.writes)
    for arguments in ((), ("--check",)):
        again = team.run(*arguments)
        assert recap(again)["changed"] == 0 and recap(again)["failed"] == 0, again.stdout
    # A project is fetched each time.
    assert [write for write in team.api.writes[writes:] if not write.endswith("/update/")] == []
    # A variable that AWX would template arrives as it was meant, and not as what it means here.
    inventory = next(item for item in team.api.objects["inventories"].values() if item["name"].startswith("Autosnap"))
    assert json.loads(inventory["variables"])["autosnap_report_file"] == "/var/lib/autosnap/reports/{{ inventory_hostname }}.html"
    gone = team.run(awx_kit_state="absent")
    assert gone.returncode == 0, gone.stdout
    assert {kind: list(named(team.api, kind)) for kind in team.api.objects} == before
    assert recap(team.run(awx_kit_state="absent"))["changed"] == 0


@pytest.mark.thorough
def test_a_change_is_a_change_and_secrets_only_when_asked(team: Team) -> None:
    assert team.run().returncode == 0
    number = next(iter(team.api.secrets))
    assert team.api.objects["credentials"][number]["inputs"]["tokens"] == ENCRYPTED
    assert "prod = autosnap@pve!awx=11111111-aaaa-4000-8000-000000000001\n" in team.api.secrets[number]["tokens"]
    tokens = {"prod": "autosnap@pve!awx=22222222-bbbb", "dev": "autosnap@pve!awx=33333333-cccc"}
    credential = {**team.kit["awx_kit_credential"], "tokens": tokens}
    assert recap(team.run(awx_kit_credential=credential))["changed"] == 0
    assert "11111111" in team.api.secrets[number]["tokens"]
    assert recap(team.run(awx_kit_credential=credential, awx_kit_update_secrets=True))["changed"] == 2
    assert "22222222" in team.api.secrets[number]["tokens"] and "11111111" not in team.api.secrets[number]["tokens"]
    # A cluster that goes, another answer of a schedule, no workflow any more, nobody told any more.
    team.kit["awx_kit_credential"] = {**credential, "tokens": {"prod": tokens["prod"]}}
    team.kit["awx_kit_clusters"][1]["state"] = team.kit["awx_kit_notifications"][0]["state"] = "absent"
    team.kit["awx_kit_schedules"][0]["variables"] = {"autosnap_guests": "100"}
    run = team.run(awx_kit_workflow={})
    assert run.returncode == 0, run.stdout
    assert recap(run)["changed"] == 4 and list(named(team.api, "hosts")) == ["prod"]
    assert not team.api.objects["workflow_job_templates"] and not team.api.objects["notification_templates"]
    schedule = next(item for item in team.api.objects["schedules"].values() if "Daily" in item["name"])
    assert schedule["extra_data"]["autosnap_guests"] == "100"
    assert recap(team.run(awx_kit_workflow={}))["changed"] == 0


@pytest.mark.thorough
def test_a_secret_that_was_entered_in_awx_stays_and_a_missing_one_is_told(team: Team) -> None:
    credential = team.kit["awx_kit_credential"]
    assert team.run(awx_kit_credential={}).returncode == 0
    (number,) = team.api.objects["credentials"]
    inputs = {**team.api.objects["credentials"][number]["inputs"], "tokens": "prod = autosnap@pve!awx=entered\n"}
    assert team.api.answer("PATCH", "/api/v2/credentials/{0}/".format(number), {}, {"inputs": inputs})[0] == 200
    assert recap(team.run(awx_kit_credential={}))["changed"] == 0
    assert team.api.secrets[number]["tokens"] == "prod = autosnap@pve!awx=entered\n"
    team.kit["awx_kit_clusters"].append({"name": "third", "api_host": ["pve3"]})
    team.kit["awx_kit_credential"] = {**credential, "tokens": {**credential["tokens"], "third": "autosnap@pve!awx=3"}}
    run = team.run()
    assert "run the role with awx_kit_update_secrets=true" in " ".join(run.stdout.split()), run.stdout
    assert team.run(awx_kit_update_secrets=True).returncode == 0
    assert "third = autosnap@pve!awx=3" in team.api.secrets[number]["tokens"]


@pytest.mark.thorough
def test_another_template_that_verifies_is_another_step(team: Team) -> None:
    workflow = team.kit["awx_kit_workflow"]
    for verify, step in (("", "verify"), ("Patch servers", "verify_own"), ("", "verify")):
        run = team.run(awx_kit_workflow={**workflow, "verify_template": verify})
        assert run.returncode == 0, run.stdout
        assert sorted(named(team.api, "workflow_job_template_nodes")) == sorted(["patch", "snapshot", step])


@pytest.mark.thorough
def test_what_awx_refuses_is_shown(team: Team) -> None:
    configuration = team.kit["awx_kit_notifications"][0]["configuration"]
    headers = configuration.pop("headers")
    run = team.run()
    assert run.returncode == 2 and "headers: it is missing" in run.stdout and "hook-password" not in run.stdout
    assert not list(named(team.api, "notification_templates"))
    configuration["headers"] = headers
    team.kit["awx_kit_schedules"][0]["rrule"] = "DTSTART;TZID=Europe/Nowhere:20260101T021500 RRULE:FREQ=DAILY;INTERVAL=1"
    run = team.run()
    assert run.returncode == 2 and "TZID Europe/Nowhere is no time zone" in run.stdout
    # A credential type that others use stays, and it is said why.
    kind = next(item for item in team.api.objects["credential_types"].values())
    team.api.create("credentials", {"name": "Other", "organization": 1, "credential_type": kind["id"], "inputs": {}})
    run = team.run(awx_kit_state="absent")
    assert run.returncode == 2 and "All is removed but the credential type" in " ".join(run.stdout.split())
    assert list(named(team.api, "credentials")) == ["Other"]


def test_unknown_variables_are_refused(team: Team) -> None:
    run = team.run(awx_kit_clusterz=[])
    assert run.returncode == 2 and "awx_kit_clusterz means nothing here" in run.stdout


def test_wrong_variables_touch_nothing(team: Team) -> None:
    run = team.run(awx_kit_project={})
    assert run.returncode == 2 and team.api.writes == []
    assert "'awx_kit_project': give either scm_url or local_path" in run.stdout


def test_without_the_collection_one_sentence(team: Team) -> None:
    team.environment["ANSIBLE_COLLECTIONS_PATH"] = os.environ["AUTOSNAP_COLLECTIONS"]
    run = team.run()
    assert run.returncode == 2 and "ansible-galaxy collection install awx.awx" in run.stdout


def test_the_same_as_data(team: Team) -> None:
    file = team.directory / "autosnap.yml"
    run = team.run(awx_kit_data_file=str(file))
    assert run.returncode == 0, run.stdout
    assert team.api.writes == [] and file.stat().st_mode & 0o777 == 0o600
    written = yaml.safe_load(file.read_text())
    assert set(written) == set(defined(team.kit)) and "11111111-aaaa" not in run.stdout
    restored = json.loads(json.dumps(written).replace("{  {", "{{"))
    assert restored == defined(team.kit)
    assert recap(team.run(awx_kit_data_file=str(file)))["changed"] == 0
    assert team.run(awx_kit_data_file=str(file), awx_kit_state="absent").returncode == 0
    assert {item["state"] for items in yaml.safe_load(file.read_text()).values() for item in items} == {"absent"}
