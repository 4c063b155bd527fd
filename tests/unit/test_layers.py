# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports go down only, and the house is as the design draws it."""

from __future__ import annotations

import ast
import pathlib

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils import model

PLUGINS = pathlib.Path(model.__file__).parent.parent
UTILS = PLUGINS / "module_utils"
PACKAGE = "ansible_collections.pve.autosnap.plugins.module_utils"
# What each part may import of the others. ``entry`` ends a module and stands above them all.
ALLOWED = {
    "model": set(),
    "text": set(),
    "files": set(),
    "policy": {"model", "policy"},
    "pve": {"model", "pve"},
    "arguments": {"policy", "pve"},
    "jobs": {"arguments", "jobs", "model", "policy", "pve", "text"},
    "entry": {"arguments", "jobs", "pve", "text"},
}
FILES = sorted(UTILS.rglob("*.py"))


def imports(path: pathlib.Path) -> set[str]:
    """Absolute names of everything a file imports."""
    found = set()
    here = [PACKAGE, *path.relative_to(UTILS).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[:len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {"{0}.{1}".format(module, alias.name) for alias in node.names}
    return found


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(UTILS).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(UTILS)))
def test_imports_go_down(path: pathlib.Path) -> None:
    inside = {name[len(PACKAGE) + 1:].split(".")[0] for name in imports(path) if name.startswith(PACKAGE + ".")}
    assert inside <= ALLOWED[part_of(path)], path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(UTILS)))
def test_who_may_import_what_from_outside(path: pathlib.Path) -> None:
    outside = {name.split(".")[0] for name in imports(path) if not name.startswith("ansible_collections")}
    if path.name not in ("session.py", "transport.py"):
        assert not outside & {"proxmoxer", "requests", "urllib3"}
    assert "ansible.module_utils.basic" not in imports(path)
    if part_of(path) == "policy":
        assert not outside & {"os", "sys", "time", "random", "subprocess", "socket", "threading", "pathlib", "io"}


def test_policy_has_no_clock_and_no_io() -> None:
    for path in (UTILS / "policy").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for forbidden in (".now(", ".today(", "open(", "print(", "environ"):
            assert forbidden not in text, (path, forbidden)


def test_every_util_says_that_it_is_private() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "PRIVATE" in text and "BSD-2-Clause" in text[:400], path


def test_every_file_that_runs_has_a_licence() -> None:
    for path in PLUGINS.rglob("*.py"):
        assert "SPDX-" + "License-Identifier" in path.read_text(encoding="utf-8")[:600], path


def test_no_raw_dict_leaves_pve() -> None:
    """Public functions of pve/ give typed values; task lists and logs are lists of texts."""
    tree = ast.parse((UTILS / "pve" / "cluster.py").read_text(encoding="utf-8"))
    for cls in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
        for function in [node for node in cls.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]:
            assert "Any" not in ast.unparse(function.returns or ast.Constant("")), function.name
