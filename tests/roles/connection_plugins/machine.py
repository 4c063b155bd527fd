# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's way into a machine of tests/tools/machine: the local connection, in the machine's namespaces."""

from __future__ import annotations

DOCUMENTATION = r"""
name: machine
short_description: Run in the namespaces of a machine of this test suite
description: [Wraps the local connection with nsenter.]
options:
  remote_addr:
    description: Name of the machine.
    default: inventory_hostname
    vars: [{name: inventory_hostname}, {name: ansible_host}]
  become_success_timeout: {description: As in the local connection., type: int, default: 10}
  become_strip_preamble: {description: As in the local connection., type: bool, default: true}
extends_documentation_fragment: [connection_pipelining]
"""

import os
import pathlib
import shlex
import shutil
import subprocess
from typing import Any

from ansible.plugins.connection.local import Connection as Local

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "machine"


class Connection(Local):
    """One machine."""

    transport = "machine"
    has_pipelining = True

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Any:
        inside = shlex.join([str(TOOL), "exec", self.get_option("remote_addr"), "/bin/sh", "-c", cmd])
        return super().exec_command(inside, in_data=in_data, sudoable=sudoable)

    def _inside(self, path: str) -> str:
        """Opened as it is: to resolve the link would lead back to this machine's own root."""
        leader = subprocess.run(
            [str(TOOL), "leader", self.get_option("remote_addr")], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        return "/proc/{0}/root{1}".format(leader, os.path.normpath(path))

    def put_file(self, in_path: str, out_path: str) -> None:
        shutil.copyfile(in_path, self._inside(out_path))

    def fetch_file(self, in_path: str, out_path: str) -> None:
        shutil.copyfile(self._inside(in_path), out_path)
