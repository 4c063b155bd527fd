# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run against a hostile server, and what must be true after it, whatever the server did."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any, Sequence, TypeVar

from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Report
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors
from cluster import CSRF, PASSWORD, SECRET, TICKET
from server import Hostile
from worlds import run_clean, run_info, run_snap

BOUND = 60.0  # seconds that no run may take; most take one
Case = TypeVar("Case")
LONG = bool(os.environ.get("AUTOSNAP_ALL"))


def some(cases: Sequence[Case], every: int) -> list[Case]:
    """All cases with ``make test-all``, else every so manieth."""
    return list(cases) if LONG else list(cases)[::every]


@dataclass
class Attacked:
    """How a run ended: with a report, or with a typed error."""

    report: Report | None
    error: errors.PveError | None
    seconds: float

    def status(self, vmid: int) -> str:
        """A guest's status, an empty text where the run did not come to it."""
        found = self.report.result["guests"] if self.report else []
        return next((str(entry["status"]) for entry in found if entry["vmid"] == vmid), "")

    @property
    def text(self) -> str:
        """Everything that it says."""
        if self.report is None:
            return str(self.error)
        return json.dumps([self.report.result, self.report.message, self.report.warnings], default=str)


def run(server: Hostile, job: str = "snap", password: bool = False, **options: Any) -> Attacked:
    """Run a job in this process; anything but a typed error is the test's failure."""
    given: dict[str, Any] = {"api_timeout": "2s", "lock_timeout": "2s", "timeout": "5s"}
    if password:
        given.update(api_token=None, api_user="autosnap@pve", api_password=PASSWORD)
    if job == "info":
        given = {name: value for name, value in given.items() if not name.endswith("k_timeout") and name != "timeout"}
    began = time.monotonic()
    report: Report | None = None
    error: errors.PveError | None = None
    try:
        if job == "info":
            report = run_info(server, **{**given, **options})  # type: ignore[arg-type]
        elif job == "clean":
            report = run_clean(server, **{"keep": 2, **given, **options})  # type: ignore[arg-type]
        else:
            report = run_snap(server, **{"keep": 2, **given, **options})  # type: ignore[arg-type]
    except errors.PveError as raised:
        error = raised
    return Attacked(report, error, time.monotonic() - began)


def survived(server: Hostile, found: Attacked, keep: int = 2, foreign: bool = True) -> None:
    """Bounded time, no secret shown, nothing made twice, nothing foreign touched, enough kept."""
    assert found.seconds < BOUND
    for secret in (SECRET, TICKET, CSRF):
        assert secret not in found.text
    for guest in server.cluster.guests.values():
        made = [name for kind, vmid, name in server.cluster.writes if kind == "qmsnapshot" and vmid == guest.vmid]
        assert len(set(made)) <= 1, "two snapshots of one run"
        assert len(made) <= 1, "the create was carried out twice"
        assert len(server.cluster.whole(guest.vmid)) >= keep
        if foreign:
            assert guest.snapshots["by_hand"]["description"] == "made by hand"
    assert not server.strangers, "somebody else was talked to"
