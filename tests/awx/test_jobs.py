# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job templates of the kit, run as AWX runs them, against simulated clusters with a token each."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator

import pytest
import yaml
from harness import Controller, Job
from simulator.running import Running
from test_contract import COLLECTION, PROJECT, defined
from worlds import ALL, TOKEN, guest, names, world

NAMESPACES = not os.geteuid() and not subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode
pytestmark = pytest.mark.skipif(not NAMESPACES, reason="the container of a job is a mount namespace, which needs root")
SNAP = {"autosnap_guests": "@all", "autosnap_label": "daily", "autosnap_retention": "last=2", "autosnap_dry_run": "no"}
CLEAN = {**SNAP, "autosnap_retention": "daily=1"}
TODAY = [{"label": "daily", "count": 2, "age": 3600}]


class Site:
    """Clusters by name, and the AWX that looks after them."""

    def __init__(self, directory: pathlib.Path, clusters: dict[str, Running], secrets: dict[str, str], **kit: Any) -> None:
        self.clusters, self.secrets = clusters, secrets
        project = directory / "project"
        shutil.copytree(PROJECT, project)
        (project / "collections" / "requirements.yml").write_text(yaml.safe_dump(
            {"collections": [{"name": os.environ["AUTOSNAP_TARBALL"], "type": "file"}]}))
        self.project = project
        one = len(clusters) == 1
        credential = {"ca": "".join(pathlib.Path(cluster.ca).read_text() for cluster in clusters.values())}
        if one:
            name, cluster = next(iter(clusters.items()))
            credential.update(hosts=cluster.hosts, token_id=TOKEN, token_secret=secrets[name])
        else:
            credential["tokens"] = {name: "{0}={1}".format(TOKEN, secret) for name, secret in secrets.items()}
        self.awx = Controller(defined({
            "awx_kit_clusters": [
                {"name": name, **({} if one else {"api_host": cluster.hosts})} for name, cluster in clusters.items()],
            "awx_kit_credential": credential, "awx_kit_project": {"scm_url": "https://git.example.com/x.git"},
            "awx_kit_extra_vars": {"autosnap_state_dir": str(directory / "state")},
            **{"awx_kit_" + name: value for name, value in kit.items()}}), project, directory)

    def no_secret(self, *jobs: Job) -> None:
        for job in jobs:
            assert not [secret for secret in self.secrets.values() if job.holds(secret)]


@contextlib.contextmanager
def site(directory: pathlib.Path, worlds: dict[str, list[dict[str, Any]]], **kit: Any) -> Iterator[Site]:
    """Clusters with these guests; each has the same token id with a secret of its own."""
    secrets = {name: "5ec2e7{0:02d}-0000-4000-8000-00000000abcd".format(number) for number, name in enumerate(worlds)}
    with contextlib.ExitStack() as stack:
        clusters = {name: stack.enter_context(Running(world(
            *guests, tokens={TOKEN: {"secret": secrets[name], "grants": {"/": ALL}}}))) for name, guests in worlds.items()}
        yield Site(directory, clusters, secrets, **kit)


def said(job: Job) -> None:
    """For people who read what a test did."""
    print("job {0}: {1}, rc {2}, {3:.1f} s\n{4}\nartifacts: {5}".format(
        job.number, job.status, job.rc, job.seconds, job.stdout, json.dumps(job.artifacts)))


def test_one_job_of_each_template(tmp_path: pathlib.Path) -> None:
    pages = tmp_path / "reports"
    pages.mkdir()
    worlds = {
        "dev": [guest(100, snapshots=[{"label": "daily", "count": 2, "age": 200000}])],
        "prod": [guest(100, snapshots=TODAY), guest(101, type="lxc", node="pve2", snapshots=TODAY)]}
    with site(tmp_path, worlds, report_path=str(pages), made_by=True) as found:
        health = found.awx.launch("Health", {"autosnap_guests": "@all", "autosnap_fail_on_status": "critical"})
        snap = found.awx.launch("Snap", SNAP, user_name="zoë", user_id=4)
        healthy = found.awx.launch("Health", {"autosnap_guests": "@all", "autosnap_fail_on_status": "critical"})
        clean = found.awx.launch("Clean", CLEAN)
        report = found.awx.launch("Report", {"autosnap_guests": "@all"}, verbosity=3)
        jobs = [health, snap, healthy, clean, report]
        for job in jobs:
            said(job)
        assert [job.status for job in jobs] == ["failed", "successful", "successful", "successful", "successful"]
        assert {name: part["failed"] for name, part in health.artifacts["autosnap"].items()} == {"dev": True, "prod": False}
        assert health.artifacts["autosnap"]["dev"]["critical_guests"] == [100]
        assert {name: part["summary"]["created"] for name, part in snap.artifacts["autosnap"].items()} == {"dev": 1, "prod": 2}
        assert {name: part["summary"]["pruned"] for name, part in clean.artifacts["autosnap"].items()} == {"dev": 1, "prod": 2}
        assert sorted(path.name for path in pages.iterdir()) == ["dev.html", "prod.html"]
        assert "100" in (pages / "dev.html").read_text()
        guests = found.clusters["prod"].pve.guest(101)
        newest = names(found.clusters["prod"], 101)[-1]
        assert guests.snapshots[newest]["description"].splitlines() == [
            "cv4pve-autosnap",
            'autosnap: {{"awx_job_id": {0}, "template": "Autosnap - Snap", "user": "zo\\u00eb"}}'.format(snap.number)]
        found.no_secret(*jobs)


def test_the_steps_of_the_workflow(tmp_path: pathlib.Path) -> None:
    """As a schedule starts it: nobody's name is known, and each step gets what the one before handed on."""
    workflow = {"patch_template": "Patch servers", "guests": "@tag-patch"}
    patched = guest(100, tags=["patch"], snapshots=TODAY)
    worlds = {"dev": [patched, guest(101)], "prod": [patched]}
    with site(tmp_path, worlds, workflow=workflow, made_by=True) as found:
        (definition,) = found.awx.definitions["controller_workflows"]
        steps = {step["identifier"]: step for step in definition["simplified_workflow_nodes"]}
        asked = {question["variable"]: question["default"] for question in definition["survey_spec"]["spec"]}
        meta = {"job_launch_type": "workflow", "workflow_job_id": 9, "parent_job_schedule_name": "Patch day"}
        snapshot = found.awx.launch("Snap", {**steps["snapshot"]["extra_data"], **asked}, **meta)
        verify = found.awx.launch("Health", {**steps["verify"]["extra_data"], **asked}, artifacts=snapshot.artifacts, **meta)
        said(verify)
        assert [snapshot.status, verify.status] == ["successful", "successful"]
        assert [part["summary"]["created"] for part in snapshot.artifacts["autosnap"].values()] == [1, 1]
        (newest,) = [name for name in names(found.clusters["dev"], 100) if name.startswith("autobefore-patch")]
        assert '"user": "Patch day"' in found.clusters["dev"].pve.guest(100).snapshots[newest]["description"]
        assert names(found.clusters["dev"], 101) == []


def test_slices_spread_clusters_and_no_guest_is_handled_twice(tmp_path: pathlib.Path) -> None:
    worlds = {"c{0}".format(number): [guest(100 + one) for one in range(1 + number % 3)] for number in range(9)}
    with site(tmp_path, worlds) as found:
        with ThreadPoolExecutor(3) as pool:
            jobs = list(pool.map(lambda number: found.awx.launch("Snap", SNAP, slice_number=number, slices=3), (1, 2, 3)))
        for job in jobs:
            said(job)
        assert [job.status for job in jobs] == ["successful"] * 3
        # Slices do not merge: each has its own clusters in its artifacts.
        assert [sorted(job.artifacts["autosnap"]) for job in jobs] == [["c0", "c3", "c6"], ["c1", "c4", "c7"], ["c2", "c5", "c8"]]
        taken = Counter(
            (name, one["vmid"]) for name, cluster in found.clusters.items() for one in worlds[name]
            for _snapshot in names(cluster, one["vmid"]))
        assert taken == Counter({(name, one["vmid"]): 1 for name, guests in worlds.items() for one in guests})
        assert sum(taken.values()) == 18
        found.no_secret(*jobs)


def test_a_limit_leaves_the_other_clusters_alone(tmp_path: pathlib.Path) -> None:
    with site(tmp_path, {"dev": [guest(100)], "prod": [guest(100)]}) as found:
        job = found.awx.launch("Snap", SNAP, limit="dev")
        assert job.status == "successful" and list(job.artifacts["autosnap"]) == ["dev"]
        assert names(found.clusters["prod"], 100) == []
        nobody = found.awx.launch("Snap", SNAP, limit="nosuch")
        said(nobody)
        assert nobody.status == "failed"


@pytest.mark.parametrize(("guests", "taken"), [("100", [100]), ("100:110,-101", [100, 102]), ("vm*", [100, 101, 102])])
def test_selectors_arrive_as_they_were_answered(tmp_path: pathlib.Path, guests: str, taken: list[int]) -> None:
    with site(tmp_path, {"dev": [guest(100), guest(101), guest(102)]}) as found:
        job = found.awx.launch("Snap", {**SNAP, "autosnap_guests": guests})
        assert job.status == "successful", job.stdout
        assert [vmid for vmid in (100, 101, 102) if names(found.clusters["dev"], vmid)] == taken


@pytest.mark.parametrize(("check", "dry_run", "taken"), [(False, "no", 1), (False, "yes", 0), (True, "no", 0), (True, "yes", 0)])
def test_check_and_the_answer_for_a_dry_run(tmp_path: pathlib.Path, check: bool, dry_run: str, taken: int) -> None:
    """One cluster on localhost, whose API host comes from the credential; all four combinations."""
    with site(tmp_path, {"localhost": [guest(100)]}) as found:
        job = found.awx.launch("Snap", {**SNAP, "autosnap_dry_run": dry_run}, check=check)
        assert job.status == "successful", job.stdout
        assert len(names(found.clusters["localhost"], 100)) == taken
        assert "| 100 " in job.stdout and ("autosnap" in job.artifacts) == bool(taken)
        found.no_secret(job)


def test_a_wrong_token_and_a_guest_that_fails(tmp_path: pathlib.Path) -> None:
    with site(tmp_path, {"dev": [guest(100)], "prod": [guest(100), guest(101, storage="full")]}) as found:
        tokens = found.awx.definitions["controller_credentials"][0]["inputs"]
        tokens["tokens"] = tokens["tokens"].replace(found.secrets["dev"], "11111111-2222-4000-8000-wrong0000000")
        job = found.awx.launch("Snap", SNAP, verbosity=3)
        said(job)
        assert job.status == "failed" and job.rc == 2
        assert "authentication" in job.stdout and "storage 'full' would be 97.0 % full" in job.stdout
        found_of = job.artifacts["autosnap"]
        assert found_of["dev"]["failed"] and found_of["prod"]["critical_guests"] == [101]
        assert len(names(found.clusters["prod"], 100)) == 1
        found.no_secret(job)
        assert not job.holds("11111111-2222")


@pytest.mark.parametrize(
    ("change", "words"), [("dev =", "line 2 of the field"), ("", "has no line for 'prod'")])
def test_a_wrong_line_of_the_tokens_is_named_and_not_shown(tmp_path: pathlib.Path, change: str, words: str) -> None:
    """As somebody may enter them in AWX."""
    with site(tmp_path, {"dev": [guest(100)], "prod": [guest(100)]}) as found:
        inputs = found.awx.definitions["controller_credentials"][0]["inputs"]
        first, second = inputs["tokens"].splitlines()
        inputs["tokens"] = first + ("\n" + second.partition("!")[2] if change else "") + "\n"
        job = found.awx.launch("Snap", SNAP, verbosity=3)
        said(job)
        assert job.status == "failed" and words in " ".join(job.stdout.split())
        found.no_secret(job)


def test_answers_are_never_templated(tmp_path: pathlib.Path) -> None:
    with site(tmp_path, {"dev": [guest(100)]}) as found:
        job = found.awx.launch("Snap", {**SNAP, "autosnap_guests": "{{ lookup('ansible.builtin.env', 'PROXMOX_TOKEN_SECRET') }}"})
        said(job)
        assert job.status == "failed"
        found.no_secret(job)


def test_a_job_finds_the_collection_beside_its_playbooks(tmp_path: pathlib.Path) -> None:
    with site(tmp_path, {"dev": [guest(100)]}) as found:
        (found.project / "collections" / "requirements.yml").unlink()
        shutil.copytree(COLLECTION, found.project / "collections" / "ansible_collections" / "pve" / "autosnap")
        assert found.awx.launch("Snap", SNAP).status == "successful"
