# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the result of the module that is measured to a file, as it is, for its size and its numbers."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Enabled by its environment variable alone."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "keep_result"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result: Any) -> None:
        """A module ended."""
        if "api_calls" in result.result:
            with open(os.environ["AUTOSNAP_BENCHMARK_RESULT"], "w", encoding="utf-8") as handle:
                json.dump(result.result, handle)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A failing one has a result too."""
        self.v2_runner_on_ok(result)
