# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one writes in an afternoon: guest after guest over proxmoxer, waiting for each task, checking it."""

from __future__ import annotations

import sys
import time
from typing import Any

from proxmoxer import ProxmoxAPI


def wait(api: Any, node: str, upid: str) -> None:
    """Ask every second until the task has ended well."""
    while True:
        status = api.nodes(node).tasks(upid).status.get()
        if status["status"] == "stopped":
            assert status["exitstatus"] == "OK", status
            return
        time.sleep(1)


def main() -> None:
    """sequential HOST PORT TOKEN SECRET CA."""
    host, port, token, secret, ca = sys.argv[1:]
    user, name = token.split("!")
    api = ProxmoxAPI(host, port=int(port), user=user, token_name=name, token_value=secret, verify_ssl=ca, timeout=30)
    for guest in api.cluster.resources.get(type="vm"):
        snapshots = api.nodes(guest["node"]).qemu(guest["vmid"]).snapshot
        wait(api, guest["node"], snapshots.post(snapname=time.strftime("autodaily%y%m%d%H%M%S"), description="cv4pve-autosnap"))
        ours = sorted(
            (s["snaptime"], s["name"]) for s in snapshots.get()
            if s["name"].startswith("autodaily") and s["description"].strip() == "cv4pve-autosnap")
        for _time, old in ours[:-2]:
            wait(api, guest["node"], snapshots(old).delete())


if __name__ == "__main__":
    main()
