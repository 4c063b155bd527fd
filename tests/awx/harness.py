# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs as AWX runs them: its private data directory, and ansible-runner's transmit, worker and process.

The directory is laid out as that of a real AWX 24.6: the inventory is a program, survey answers and variables of the template are
tagged as unsafe, environment and secrets travel in the stream alone, collections are looked for in requirements_collections and
beside the playbook. The container is a mount namespace with the directory at /runner, hence root.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Mapping

import ansible_runner
import contract
import jinja2.sandbox
import yaml
from unsafe import Dumper, Unsafe

RUNNER = pathlib.Path("/runner")
_numbers = itertools.count(101)


@dataclass
class Job:
    """What AWX would show of a job."""

    number: int
    status: str
    rc: int
    events: list[dict[str, Any]]
    artifacts: dict[str, Any]
    seconds: float

    @property
    def stdout(self) -> str:
        """The output as a person reads it."""
        return "\n".join(event.get("stdout", "") for event in self.events)

    def holds(self, secret: str) -> bool:
        """Whether a text is in any event or artifact."""
        return secret in json.dumps(self.events) or secret in json.dumps(self.artifacts)


class Controller:
    """An AWX with the objects of ``definitions``; ``secrets`` are the inputs of its one credential, as AWX would decrypt them."""

    def __init__(self, definitions: Mapping[str, list[dict[str, Any]]], project: pathlib.Path, work: pathlib.Path) -> None:
        self.definitions = definitions
        self.project = project
        self.work = work

    def launch(
        self, template: str, answers: Mapping[str, Any], check: bool = False, limit: str = "", verbosity: int = 0,
        slice_number: int = 1, slices: int = 1, artifacts: Mapping[str, Any] | None = None, **meta: Any,
    ) -> Job:
        """Run a job template to its end.

        ``artifacts`` are those of the steps before it in a workflow, ``meta`` further variables that AWX sets, without their
        prefix.
        """
        definition = next(item for item in self.definitions["controller_templates"] if item["name"].endswith(" - " + template))
        assert contract.answers(definition["survey_spec"], dict(answers)) == []
        number = next(_numbers)
        directory = pathlib.Path(tempfile.mkdtemp(prefix="awx_{0}_".format(number), dir=self.work))
        for part in ("env", "inventory", "cp"):
            (directory / part).mkdir(mode=0o700)
        shutil.copytree(self.project, directory / "project", symlinks=True)
        self._requirements(directory)
        self._inventory(directory, slice_number, slices)
        names = {"job_id": number, "job_launch_type": "manual", "job_template_name": definition["name"], "inventory_id": 2,
                 "job_template_id": 5, "project_scm_branch": "", "execution_node": "awx-1",
                 "inventory_name": definition["inventory"], "project_revision": "0" * 40, **meta}
        variables = {prefix + name: value for prefix in ("awx_", "tower_") for name, value in names.items()}
        given = {**definition["extra_vars"], **answers, **(artifacts or {}), **variables}
        _put(directory / "env" / "extravars", _unsafe(given), 0o600)
        environment = self._environment(directory, number)
        words = ["-u", "root", *(["--check"] if check else []), *(["-l", limit] if limit else []),
                 *(["-" + "v" * verbosity] if verbosity else [])]
        if definition["forks"]:
            words.append("--forks={0}".format(definition["forks"]))
        _put(directory / "env" / "cmdline", " ".join(words), 0o600)
        _put(directory / "env" / "settings", json.dumps({
            "job_timeout": definition["timeout"], "suppress_ansible_output": True, "suppress_output_file": True}), 0o600)
        return _run(directory, number, definition["playbook"], environment)

    def _requirements(self, directory: pathlib.Path) -> None:
        """What the update of the project installs."""
        wanted = directory / "project" / "collections" / "requirements.yml"
        if wanted.exists():
            installed = str(directory / "requirements_collections")
            subprocess.run(
                ["ansible-galaxy", "collection", "install", "--offline", "-r", str(wanted), "-p", installed], check=True,
                capture_output=True, env={"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8"})

    def _inventory(self, directory: pathlib.Path, number: int, slices: int) -> None:
        """Hosts by name, those of the slice; AWX adds what it knows of each."""
        given = {item["name"]: item["variables"] for item in self.definitions["controller_hosts"] if item["state"] == "present"}
        names = sorted(given)[number - 1::slices]
        known = {"remote_tower_enabled": "true", "remote_tower_id": 7, "remote_host_enabled": "true", "remote_host_id": 7}
        script = {
            "all": {"hosts": names, "vars": self.definitions["controller_inventories"][0]["variables"]},
            "_meta": {"hostvars": {name: {**given[name], **known} for name in names}}}
        _put(directory / "inventory" / "hosts", "#! /usr/bin/env python3\n# -*- coding: utf-8 -*-\nprint({0!r})\n".format(
            json.dumps(script)), 0o700)

    def _environment(self, directory: pathlib.Path, number: int) -> dict[str, str]:
        """What a job finds in its environment, the injectors of the credential type rendered as AWX renders them."""
        environment = {
            "ANSIBLE_FORCE_COLOR": "True", "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
            "ANSIBLE_RETRY_FILES_ENABLED": "False", "AWX_PRIVATE_DATA_DIR": str(directory), "JOB_ID": str(number),
            "INVENTORY_ID": "2", "PROJECT_REVISION": "0" * 40, "MAX_EVENT_RES": "700000", "AWX_HOST": "https://awx.example.com",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": "/runner/cp",
            "ANSIBLE_COLLECTIONS_PATH": "/runner/requirements_collections:~/.ansible/collections:/usr/share/ansible/collections",
            "ANSIBLE_ROLES_PATH": "/runner/requirements_roles:~/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles",
            "NO_PROXY": "127.0.0.0/8,localhost"}
        kind = self.definitions["controller_credential_types"][0]
        space: dict[str, Any] = dict(self.definitions["controller_credentials"][0]["inputs"])
        engine = jinja2.sandbox.ImmutableSandboxedEnvironment()
        files = {}
        for name, text in kind["injectors"]["file"].items():
            handle, path = tempfile.mkstemp(dir=directory / "env")
            os.close(handle)
            pathlib.Path(path).write_text(engine.from_string(text).render(**space))
            files[name.partition(".")[2]] = "/runner/env/" + os.path.basename(path)
        space["tower"] = space["awx"] = {"filename": files}
        for name, text in kind["injectors"]["env"].items():
            environment[name] = engine.from_string(text).render(**space)
        return environment


def _put(path: pathlib.Path, text: str, mode: int) -> None:
    path.touch(mode=mode)
    path.write_text(text)


def _unsafe(value: Any) -> str:
    """AWX never has answers and variables templated: keys and texts are tagged."""
    def tagged(part: Any) -> Any:
        if isinstance(part, dict):
            return {tagged(key): tagged(one) for key, one in part.items()}
        if isinstance(part, list):
            return [tagged(one) for one in part]
        return Unsafe(part) if isinstance(part, str) else part
    return yaml.dump(tagged(value), Dumper=Dumper, sort_keys=False, width=10 ** 6)


def _run(directory: pathlib.Path, number: int, playbook: str, environment: dict[str, str]) -> Job:
    began = time.monotonic()
    stream = io.BytesIO()
    ansible_runner.interface.run(
        streamer="transmit", _output=stream, only_transmit_kwargs=True, private_data_dir=str(directory), ident=str(number),
        playbook=playbook, inventory=str(directory / "inventory" / "hosts"), envvars=environment, suppress_env_files=True,
        fact_cache_type="")
    program = os.path.dirname(sys.executable)
    RUNNER.mkdir(exist_ok=True)
    command = 'mount --bind "$0" /runner && exec ansible-runner worker --private-data-dir="$0"'
    worker = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, str(directory)],
        input=stream.getvalue(), capture_output=True, check=False,
        env={"PATH": "{0}:/usr/sbin:/usr/bin:/sbin:/bin".format(program), "HOME": str(directory), "LANG": "C.UTF-8"})
    events: list[dict[str, Any]] = []
    ended = ansible_runner.interface.run(
        streamer="process", quiet=True, _input=io.BytesIO(worker.stdout), private_data_dir=str(directory), ident=str(number),
        settings={"suppress_ansible_output": True}, event_handler=lambda event: bool(events.append(event)) or True)
    stats = [event for event in events if event["event"] == "playbook_on_stats"]
    artifacts = stats[-1]["event_data"].get("artifact_data") or {} if stats else {}
    rc = int((directory / "artifacts" / str(number) / "rc").read_text())
    return Job(number, ended.status, rc, events, artifacts, time.monotonic() - began)
