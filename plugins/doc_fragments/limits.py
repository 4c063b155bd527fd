# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  locked:
    description:
      - What to do with a guest that is locked (by a backup, a migration or another snapshot).
      - V(wait) puts it back and goes on with others, until O(lock_timeout) has passed; the guest is then V(deferred).
      - A hibernated guest (lock V(suspended)) is never waited for.
    type: str
    choices: [wait, skip, fail]
    default: wait
  lock_timeout:
    description: How long a locked guest is waited for.
    type: str
    default: 10m
  hook:
    description:
      - Executable on the machine that runs the module, called at every phase with C(CV4PVE_AUTOSNAP_*) and C(AUTOSNAP_*)
        variables in its environment. It gets no C(PROXMOX_*) variable.
    type: path
  hook_timeout:
    description: How long one call of the hook may take before it is killed.
    type: str
    default: 5m
  on_hook_failure:
    description:
      - What a hook means that ends with another exit code than 0.
      - With V(skip_guest) a failing C(-pre) hook vetoes the snapshot or its deletion, and a failing C(-job-start) the whole
        run. Otherwise it is a warning.
    type: str
    choices: [continue, skip_guest]
    default: continue
  timeout:
    description:
      - How long one task may take; V(0) for no limit. A task is never killed, it goes on and its UPID is in the result.
    type: str
    default: 30m
  run_timeout:
    description: After this time nothing new is started; V(0) for no limit.
    type: str
    default: "0"
  max_parallel:
    description: How many tasks may run at once. The connection pool holds 16 connections.
    type: int
    default: 16
  max_parallel_per_node:
    description:
      - How many tasks may run at once on one node. 4 is the number that Proxmox VE uses for its own bulk actions.
    type: int
    default: 4
  max_parallel_per_storage:
    description:
      - How many guests with disks on the same storage may be worked on at once. On LVM with snapshots as volume chain it is
        always one, since a delete that waits too long for the storage's lock leaves the guest locked.
    type: int
    default: 4
  max_parallel_deletes:
    description: How many snapshots may be deleted at once; deletes load a storage more than creates.
    type: int
    default: 4
  fail_on:
    description:
      - Whether the run fails when V(any) guest, V(all) guests or V(never) a guest is not as it should be.
      - It always goes on to the end and reports everything.
    type: str
    choices: [any, all, never]
    default: any
  verbosity:
    description: With V(full) the result lists the kept snapshots with the reasons, and texts are not cut.
    type: str
    choices: [normal, full]
    default: normal
"""
