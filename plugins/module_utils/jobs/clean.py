# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The clean job: prune only."""

from __future__ import annotations

from typing import Iterable

from ..arguments import CleanSettings
from ..policy.storage_guard import Limits
from ..pve.session import Session
from .plan import clean_retainer, plan_clean
from .run import Job, Report, run


def clean(settings: CleanSettings, session: Session, secrets: Iterable[str], check: bool, diff: bool) -> Report:
    """Run it, or in check mode show what it would do."""
    job = Job(
        name="clean",
        label=",".join(settings.labels) if settings.labels else "*",
        keep=settings.keep,
        vmstate=False,
        target=settings.target,
        limits=settings.limits,
        retainer=clean_retainer(settings),
        make_plan=lambda situation: plan_clean(situation, settings),
        guard=Limits(100, 0),
        fresh_enough=lambda snapshots, server_time: "",
    )
    return run(job, session, secrets, check, diff)
