# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options are the same wherever they are written: module, documentation, playbook, action group."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml
from ansible_collections.pve.autosnap.plugins.filter import tables
from ansible_collections.pve.autosnap.plugins.module_utils import arguments

ROOT = pathlib.Path(tables.__file__).parents[2]
BOOKS = {"snap": ("autosnap_snap", arguments.SNAP), "clean": ("autosnap_clean", arguments.CLEAN),
         "status": ("autosnap_info", arguments.INFO), "agent": ("autosnap_agent", arguments.AGENT)}
# Where a playbook calls its module.
CALLS = {"snap": "snap.yml", "clean": "clean.yml", "status": "tasks/list.yml", "agent": "agent.yml"}


def tasks(node: Any) -> list[dict[str, Any]]:
    """Every task of a playbook, blocks opened."""
    found = []
    for item in node:
        found.append(item)
        for key in ("tasks", "block", "always", "rescue"):
            found += tasks(item.get(key, []))
    return found


@pytest.mark.parametrize("name", BOOKS)
def test_a_playbook_passes_every_option_of_its_module(name: str) -> None:
    module, spec = BOOKS[name]
    book = yaml.safe_load((ROOT / "playbooks" / CALLS[name]).read_text(encoding="utf-8"))
    call = next(task["pve.autosnap." + module] for task in tasks(book) if "pve.autosnap." + module in task)
    assert set(call) == set(spec.options)
    for option, text in call.items():
        assert re.match(r"\{\{ autosnap_" + option + r"( \| default\(omit\))? \}\}\Z", text), option


@pytest.mark.parametrize("name", BOOKS)
def test_a_playbook_s_spec_is_its_module_s(name: str) -> None:
    spec = tables.variables_spec(name)
    for option, given in BOOKS[name][1].options.items():
        assert spec["autosnap_" + option]["type"] == given["type"]
        assert spec["autosnap_" + option].get("choices") == given.get("choices")


def test_unknown_variables() -> None:
    assert tables.unknown_variables(["autosnap_keep", "autosnap_kepe", "autosnap_hosts", "autosnap_result"], "snap") == [
        "autosnap_kepe"]


@pytest.mark.parametrize("name", BOOKS)
def test_the_action_group_holds_every_module(name: str) -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))
    assert BOOKS[name][0] in runtime["action_groups"]["autosnap"]


def test_connection_options_are_those_of_community_proxmox() -> None:
    """Names of the options that both have (style 1.2), so that module_defaults carry over."""
    assert {"api_host", "api_port", "api_user", "api_password", "api_otp", "api_token_id", "api_token_secret", "ca_path",
            "validate_certs", "api_timeout"} <= set(arguments.CONNECTION.options)


def test_secrets_are_marked() -> None:
    for option, spec in arguments.SNAP.options.items():
        if re.search("password|secret|token|otp", option):
            assert spec.get("no_log") is (not option.endswith(("_file", "_id"))), option
