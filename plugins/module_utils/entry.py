# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The one place where a report becomes a module's answer, and an exception its failure."""

from __future__ import annotations

import traceback
from typing import Any, Callable, Optional

from .arguments import Connection, InputError, connection
from .jobs import lifeline
from .jobs.run import Report
from .pve.errors import PveError
from .text import cleaned, one_line


def run(module: Any, job: Callable[[Connection], Report]) -> None:
    """Check the connection's arguments, do the job, and end the module (an AnsibleModule)."""
    lifeline.watch()
    access: Optional[Connection] = None
    try:
        access = connection(module.params)
        for warning in access.warnings:
            module.warn(one_line(warning))
        report = job(access)
        _hide(module, access)
        _finish(module, report)
    except InputError as error:
        _hide(module, access)
        _fail(module, str(error), failure={"code": "input", "message": str(error)})
    except PveError as error:
        _hide(module, access)
        _fail(module, error.message, failure=error.failure())
    except Exception as error:
        # The last line of defence: whatever it is, the module ends with an answer and without a secret in it.
        _hide(module, access)
        text = "internal error: {0}: {1}".format(type(error).__name__, str(error)[:200])
        _fail(
            module, text + "; what it had begun goes on, and the next run says what became of it; please report it with the "
            "output of -vvv", failure={"code": "internal", "message": text}, exception=traceback.format_exc())


def _finish(module: Any, report: Report) -> None:
    """The boundary behind which no text is foreign any more."""
    for warning in report.warnings:
        module.warn(one_line(warning))
    if report.failed:
        _fail(module, report.message, **report.result)
    module.exit_json(**cleaned({"msg": report.message, **report.result}))


def _fail(module: Any, message: str, **result: Any) -> None:
    module.fail_json(**cleaned({"msg": message, **result}))


def _hide(module: Any, access: Optional[Connection]) -> None:
    """Law 12, also for what the server handed out meanwhile."""
    if access is not None:
        module.no_log_values.update(access.secrets)
