# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write a file of the control node so that who reads it sees the old one or the new one, whole.

The module for copying may write into a file beside it whose name ends as the other one does, and node_exporter reads
every C(*.prom).
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from typing import Any, Dict, Optional

from ansible.plugins.action import ActionBase
from ansible_collections.pve.autosnap.plugins.module_utils.files import regular_file


class ActionModule(ActionBase):
    """See the documentation of the module of the same name."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Optional[str] = None, task_vars: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        result: Dict[str, Any] = super().run(tmp, task_vars)
        _unused, arguments = self.validate_argument_spec(argument_spec={
            "content": {"type": "str", "required": True}, "dest": {"type": "path", "required": True},
            "mode": {"type": "str"}})
        data, path = arguments["content"].encode("utf-8", "replace"), arguments["dest"]
        try:
            result["changed"] = _read(path) != data
            if result["changed"] and not self._task.check_mode:
                _replace(path, data, arguments["mode"])
        except OSError as error:
            result.update(failed=True, msg="'{0}' cannot be written: {1}; is its directory there, and may this user write in "
                                           "it?".format(path, error.strerror))
        return result


def _read(path: str) -> Optional[bytes]:
    try:
        return regular_file(path)
    except FileNotFoundError:
        return None


def _replace(path: str, data: bytes, mode: Optional[str]) -> None:
    """With C(mode), else with that of the file before, and for its owner where that may be."""
    directory, name = os.path.split(os.path.abspath(path))
    descriptor, temporary = tempfile.mkstemp(prefix=".{0}.".format(name), suffix=".new", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        with contextlib.suppress(FileNotFoundError):
            before = os.stat(path)
            mode = mode or oct(stat.S_IMODE(before.st_mode))[2:]
            with contextlib.suppress(PermissionError):
                os.chown(temporary, before.st_uid, before.st_gid)
        os.chmod(temporary, int(mode or "644", 8))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
