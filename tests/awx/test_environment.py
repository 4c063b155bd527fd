# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment: what ansible-builder makes of it, and whether it holds what the collection imports."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml
from test_contract import COLLECTION, PROJECT

# What ansible-core brings with it.
CORE = {"ansible", "ansible_collections", "jinja2", "packaging", "yaml"}


def built(*arguments: str, cwd: pathlib.Path) -> str:
    run = subprocess.run(
        ["ansible-builder", *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8"})
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def imported() -> set[str]:
    """Libraries that the collection's Python files import."""
    found = set()
    for path in [*(COLLECTION / "plugins").rglob("*.py"), COLLECTION / "roles" / "schedule" / "files" / "autosnap-notify"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    return found - CORE - set(sys.stdlib_module_names)


def test_the_requirements_are_what_is_imported(tmp_path: pathlib.Path) -> None:
    installed = os.environ["AUTOSNAP_COLLECTIONS"]
    built("introspect", "--write-pip", "pip.txt", "--write-bindep", "bindep.txt", installed, cwd=tmp_path)
    wanted = [re.split(r"[>=<~! ]", line)[0] for line in (tmp_path / "pip.txt").read_text().splitlines()]
    python = {name.replace("-", "_").lower() for name in wanted}
    assert python == imported()
    assert [line.split()[0] for line in (tmp_path / "bindep.txt").read_text().splitlines()] == ["tzdata"]


def test_the_example_makes_a_build_context(tmp_path: pathlib.Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project)
    built("create", "--context", str(tmp_path / "context"), "--output-filename", "Containerfile", cwd=project)
    context = tmp_path / "context"
    assert yaml.safe_load((context / "_build" / "requirements.yml").read_text()) == yaml.safe_load(
        (PROJECT / "collections" / "requirements.yml").read_text())
    text = (context / "Containerfile").read_text()
    assert 'ARG EE_BASE_IMAGE="fedora:43"' in text and "ansible-galaxy collection install" in text and "introspect" in text
