# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The snapshot job: create, then prune."""

from __future__ import annotations

from typing import Iterable

from ..arguments import SnapSettings
from ..pve.session import Session
from .plan import Retainer, fresh_enough, plan_snap
from .run import Job, Report, run


def snap(settings: SnapSettings, session: Session, secrets: Iterable[str], now: int, check: bool, diff: bool) -> Report:
    """Run it, or in check mode show what it would do; ``now`` is Unix seconds of the control node."""
    recognition = settings.target.recognition
    job = Job(
        name="snap",
        label=settings.label,
        keep=settings.keep,
        vmstate=settings.vmstate,
        target=settings.target,
        limits=settings.limits,
        retainer=Retainer(recognition, (settings.label,), settings.retention, recognition.timezone),
        make_plan=lambda situation: plan_snap(situation, settings, now),
        guard=settings.guard,
        fresh_enough=lambda snapshots, server_time: fresh_enough(settings, snapshots, server_time),
        guest_commands=settings.guest_commands,
        ask_agents=settings.require_frozen != "never" and not settings.vmstate,
    )
    return run(job, session, secrets, check, diff)
