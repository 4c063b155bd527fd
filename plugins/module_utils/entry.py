# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The one place where a report becomes a module's answer, and an exception its failure."""

from __future__ import annotations

from typing import Any, Callable

from .arguments import Connection, InputError, connection
from .jobs.run import Report
from .pve.errors import PveError


def run(module: Any, job: Callable[[Connection], Report]) -> None:
    """Check the connection's arguments, do the job, and end the module (an AnsibleModule)."""
    try:
        access = connection(module.params)
        module.no_log_values.update(access.secrets)
        report = job(access)
    except InputError as error:
        module.fail_json(msg=str(error), failure={"code": "input", "message": str(error)})
    except PveError as error:
        module.fail_json(msg=error.message, failure=error.failure())
    else:
        for warning in report.warnings:
            module.warn(warning)
        if report.failed:
            module.fail_json(msg=report.message, **report.result)
        module.exit_json(msg=report.message, **report.result)
