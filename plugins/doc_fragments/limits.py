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
    description:
      - How long a locked guest is waited for. A single guest in a backup makes a run take so much longer than all the others.
      - V(0), or O(locked=skip), is for short jobs that must not wait for backups.
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
    description:
      - After this time the run ends; V(0) for no limit. Nothing new is started, and tasks that still run are left alone and
        reported as V(timeout) with their UPIDs.
    type: str
    default: "0"
  max_parallel:
    description:
      - How many snapshots may be made at once in the whole cluster, enough for two nodes at their limit. A run finishes with
        a node before it begins the next one, as far as the limits allow. Proxmox VE itself takes 4 for bulk actions on a
        cluster unless told otherwise, and 64 at the most.
    type: int
    default: 16
  max_parallel_per_node:
    description:
      - How many snapshots may be made at once on one node. 8 is what Proxmox VE 9 takes at the most when it starts or stops all
        guests of a node. V(4) is its default for bulk actions on a cluster, for nodes that are short of disk bandwidth.
    type: int
    default: 8
  max_parallel_per_storage:
    description:
      - How many snapshots may be made at once of guests with disks on the same storage, which for a shared storage counts over
        all nodes.
      - Where it is not set it is O(max_parallel), but one task at a time, deletes included, on NFS and CIFS, where each snapshot
        stalls its guest while the others share the bandwidth.
      - It is always one task, deletes included, on LVM with snapshots as volume chain, since a delete that waits too long for
        the storage's lock leaves the guest locked; and on a storage that the token may not see (C(Datastore.Audit)).
    type: int
  max_parallel_deletes:
    description:
      - How many snapshots may be deleted at once in the whole cluster. Creates do not count here, nor deletes there.
      - The three limits of deletes are three quarters of those of creates where they are not set (12, 6 and 12), since a delete
        loads a storage more, and one that fails may leave its guest locked.
    type: int
  max_parallel_deletes_per_node:
    description: How many snapshots may be deleted at once on one node.
    type: int
  max_parallel_deletes_per_storage:
    description: How many snapshots may be deleted at once of guests with disks on the same storage.
    type: int
  state_dir:
    description:
      - Directory on the machine that runs the module, for the record of a run and for the locks that keep two runs on the same
        cluster from working on the same guest. It is made where it is missing.
      - Runs that shall see each other need the same one, and an API host in common.
      - The default is the first of E(STATE_DIRECTORY) (which systemd sets), C(pve.autosnap) in E(XDG_STATE_HOME), and
        C(~/.local/state/pve.autosnap).
      - The record holds the plan, the UPIDs and the outcome so far, no secret. It is removed at the end of the run, unless
        something is unfinished; the next run then tells what became of it in RV(ignore:unfinished).
      - A directory that cannot be written is a warning.
    type: path
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
