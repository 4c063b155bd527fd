#!/usr/bin/python
# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: autosnap_snap
short_description: Take snapshots of Proxmox VE guests and prune old ones
version_added: 0.1.0
description:
  - Takes one snapshot of each selected VM and container, waits for it, and then deletes the snapshots of the same label that
    the retention does not keep.
  - Works on one cluster in one task, in parallel but within limits.
  - Knows and takes over the snapshots of cv4pve-autosnap and eve4pve-autosnap. Any other snapshot is never counted and never
    touched; so is one whose description somebody edited.
  - Deletes are never forced. The snapshot just made and the newest whole one are never deleted.
author:
  - pve.autosnap contributors (@pve-autosnap)
extends_documentation_fragment:
  - pve.autosnap.connection
  - pve.autosnap.selection
  - pve.autosnap.selection.expect
  - pve.autosnap.recognition
  - pve.autosnap.retention
  - pve.autosnap.limits
  - pve.autosnap.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: Each run takes a snapshot, unless O(min_interval) is set; within that time nothing changes.
options:
  label:
    description:
      - Name of the schedule, such as V(daily). It is a part of the snapshots' names.
    type: str
    required: true
  vmstate:
    description: Whether to save the RAM of running VMs too. Containers have none.
    type: bool
    default: false
  only_running:
    description: Whether to leave stopped guests alone.
    type: bool
    default: false
  min_interval:
    description: A guest whose newest whole snapshot of the label is younger than this gets none, such as V(20h).
    type: str
    default: "0"
  made_by:
    description:
      - Who or what made the snapshots, such as the number of an AWX job or of a pipeline.
      - It is written as JSON into a second line of their descriptions, at most 500 characters.
      - Snapshots with it are managed ones as any other, but cv4pve-autosnap takes them for foreign ones.
    type: dict
  max_storage_percent:
    description:
      - Storage guard. No snapshot is taken of a guest when one of its storages would be fuller than this.
      - The storage for the RAM is looked at too. A storage whose use cannot be seen counts as full.
    type: int
    default: 95
  min_storage_free:
    description: Storage guard. The least free space to leave on each storage, such as V(50G).
    type: str
    default: "0"
  on_storage_full:
    description:
      - What to do with a guest that the storage guard refuses.
      - V(prune_first) deletes what the retention deletes anyway and then looks again, for up to 30 seconds. Check mode shows
        these deletes, and names the snapshot that is made if they make room in RV(guests[].reason).
    type: str
    choices: [skip, prune_first, fail]
    default: skip
  require_frozen:
    description:
      - What to do with a running VM whose file systems would not be frozen for its snapshot.
      - V(skip) and V(fail) take no snapshot of it where that is known before, since the agent is not enabled, told not to freeze,
        or does not answer. They differ in the guest's status only; either makes the run red.
      - Where it shows only after the snapshot, the guest is V(created) and red, and nothing is pruned that would stay without it.
      - Containers, stopped VMs and snapshots with RAM need no freeze.
      - Asking the agents takes one call each, also in check mode, and needs C(VM.GuestAgent.Audit), before Proxmox VE 9
        C(VM.Monitor).
    type: str
    choices: [never, skip, fail]
    default: never
  guest_commands:
    description:
      - Programs to run in each running VM, by its guest agent, around its snapshot. Containers and stopped VMs have none.
      - Needs C(VM.GuestAgent.Unrestricted), before Proxmox VE 9 C(VM.Monitor). With it the token is root in every guest that
        it is granted on; a hook of the agent in the guest needs no privilege.
      - They are in the clear in logs and results. Put secrets into files in the guest.
    type: dict
    suboptions:
      pre:
        description:
          - The program, with its full path, and its arguments. There is no shell unless it is the program.
          - It runs right before the snapshot. Where it fails, there is no snapshot, unless O(guest_commands.on_error=continue).
        type: list
        elements: str
      post:
        description:
          - The same for after the snapshot. It is started whatever became of O(guest_commands.pre) and the snapshot, also when
            the run is told to end, and may be started twice where an answer was lost.
        type: list
        elements: str
      timeout:
        description: How long each may take. One that takes longer has failed; it goes on in the guest.
        type: str
        default: 1m
      on_error:
        description:
          - What becomes of a guest whose command fails. V(skip) and V(fail) are its status, and red. V(continue) only warns.
          - Where O(guest_commands.post) fails, the snapshot stays, and the guest is red unless this is V(continue).
        type: str
        choices: [skip, fail, continue]
        default: skip
seealso:
  - module: pve.autosnap.autosnap_clean
  - module: pve.autosnap.autosnap_info
  - module: community.proxmox.proxmox_snap
    description: One snapshot of one guest.
"""

EXAMPLES = r"""
- name: Take a daily snapshot of everything but guest 111 and keep 7
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token_id: autosnap@pve!ansible
    api_token_secret: "{{ autosnap_token_secret }}"
    ca_path: /etc/ssl/pve-root-ca.pem
    guests: "@all,-111"
    label: daily
    keep: 7

- name: The same, with the connection set once and two hosts to fall back on
  module_defaults:
    group/pve.autosnap.autosnap:
      api_host: [pve1.example.com, pve2.example.com, pve3.example.com]
      api_token_file: /etc/autosnap/token
      ca_path: /etc/ssl/pve-root-ca.pem
  block:
    - name: Snapshot the production pool, without the guests tagged test
      pve.autosnap.autosnap_snap:
        guests: "@pool-prod,-@tag-test"
        label: hourly
        keep: 24

- name: Keep days, weeks and months of the guests with a tag
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@tag-gold"
    label: gfs
    retention:
      daily: 7
      weekly: 4
      monthly: 6

- name: Snapshot running VMs with their RAM before a change, on one node
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@node-pve1&@type-qemu"
    label: before-change
    vmstate: true
    only_running: true
    timeout: 1h

- name: Take a snapshot only if the last one is older than 20 hours, so that a second run does no harm
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all"
    label: daily
    keep: 7
    min_interval: 20h

- name: Make room first where a storage is over 85 percent, and go easy on the storages
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all"
    label: daily
    keep: 3
    max_storage_percent: 85
    min_storage_free: 50G
    on_storage_full: prune_first
    max_parallel_per_storage: 1
    max_parallel_deletes: 1

- name: Take over the snapshots of a cv4pve-autosnap job with its own timestamp format
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token: "{{ lookup('ansible.builtin.file', '/etc/autosnap/token') }}"
    guests: "@all,-@tag-nosnap"
    label: daily
    keep: 7
    timestamp_format: yyyyMMdd_HHmmss
    hook: /usr/local/bin/autosnap-hook
    on_hook_failure: skip_guest

- name: Only snapshots of running VMs whose file systems were frozen, after a program in each of them
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@tag-database"
    label: daily
    keep: 7
    require_frozen: skip
    guest_commands:
      pre: [/usr/local/bin/quiesce, --timeout, "30"]
      post: [/usr/local/bin/resume]
      timeout: 45s
  register: run

- name: Show which were not
  ansible.builtin.debug:
    msg: "{{ item.vmid }} {{ item.name }}: {{ item.consistency_reason }}"
  loop: "{{ run.guests | selectattr('consistency', 'equalto', 'not_frozen') }}"
  loop_control:
    label: "{{ item.vmid }}"

- name: Show what the next run would do, and why
  pve.autosnap.autosnap_snap:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all"
    label: daily
    keep: 7
    verbosity: full
  check_mode: true
  diff: true
  register: plan
"""

RETURN = r"""
msg:
  description: What was done in one sentence, or why the run failed.
  returned: always
  type: str
  sample:
    '4 of 8 guests are not as they should be, the first is 103 backup-runs: deferred (locked (backup) for 5 s (lock_timeout);
      run again later); option ''guests'': ''@tag-nosuch'' matched no guest; is it spelt right, and does the token have
      VM.Audit on the guest?'
guests:
  description: One entry per guest.
  returned: when the cluster could be read
  type: list
  elements: dict
  contains:
    vmid:
      description: Id of the guest.
      type: int
      returned: always
    name:
      description: Name of the guest, empty where the cluster does not tell it.
      type: str
      returned: always
    type:
      description: V(qemu) or V(lxc).
      type: str
      returned: always
    node:
      description: Node of the guest.
      type: str
      returned: always
    status:
      description:
        - What became of the guest, one of V(created), V(pruned), V(unchanged), V(skipped), V(deferred), V(failed),
          V(timeout), V(unreachable).
        - Where a snapshot was made and then its pruning went wrong, it is what became of the pruning, and
          RV(guests[].snapshot) names what was made.
      type: str
      returned: always
    reason:
      description: Why.
      type: str
      returned: always
    snapshot:
      description: Name of the snapshot made.
      type: str
      returned: always
    consistency:
      description:
        - What the guest was doing when the disks were cut. V(frozen), its file systems were frozen by the agent; V(not_frozen),
          as in a power failure; V(memory), its RAM was saved; V(stopped), it was not running; V(container), Proxmox VE froze its
          processes; V(unknown), the task's log does not tell.
        - Empty where no snapshot was made, and in check mode where only the log will tell.
        - Before Proxmox VE 9.1 the log does not tell when the agent itself refused to freeze, as when its hook failed.
      type: str
      returned: always
    consistency_reason:
      description: Why it is V(not_frozen) or V(unknown), in the words of Proxmox VE where there are any.
      type: str
      returned: always
    pruned:
      description: Names of the snapshots deleted.
      type: list
      elements: str
      returned: always
    repaired:
      description: Always empty here; it is O(pve.autosnap.autosnap_clean#module:repair) that deletes broken snapshots.
      type: list
      elements: str
      returned: always
    upids:
      description: Tasks started for the guest; the last three, or all with O(verbosity=full).
      type: list
      elements: str
      returned: always
    red:
      description: Whether the guest is not as it should be, which fails the run unless O(fail_on=never).
      type: bool
      returned: always
    held:
      description: Of each label of the run, the number of whole snapshots that the guest has now and the time of the newest one.
        Empty where they could not be read.
      type: list
      elements: dict
      returned: always
      contains:
        label:
          description: The label.
          type: str
          returned: always
        count:
          description: The number.
          type: int
          returned: always
        newest:
          description: C(snaptime) of the newest, Unix seconds.
          type: int
          returned: always
    duration:
      description: Seconds from the first to the last step on the guest.
      type: float
      returned: always
    warnings:
      description: What is worth knowing.
      type: list
      elements: str
      returned: always
    errors:
      description: Further failures beside RV(guests[].reason); the first two, each cut, or all of them with O(verbosity=full).
      type: list
      elements: str
      returned: always
    kept:
      description: Snapshots of the label that stay, each with its name and the reasons why.
      type: list
      elements: dict
      returned: with O(verbosity=full) or in diff mode
  sample:
    - vmid: 100
      name: web1
      type: qemu
      node: pve1
      status: created
      reason: ''
      snapshot: autodaily261123004257
      consistency: frozen
      consistency_reason: ''
      pruned:
        - autodaily261120004256
      repaired: []
      upids:
        - 'UPID:pve1:000003E9:00001B5F:6B038C11:qmsnapshot:100:autosnap@pve!test:'
        - 'UPID:pve1:000003F1:00001B97:6B038C12:qmdelsnapshot:100:autosnap@pve!test:'
      red: false
      held:
        - {label: daily, count: 2, newest: 1795394577}
      duration: 1.5
      warnings: []
      errors: []
    - vmid: 105
      name: on-full-storage
      type: qemu
      node: pve1
      status: skipped
      reason: storage 'full' would be 97.0 % full, max_storage_percent is 95
      snapshot: ''
      consistency: ''
      consistency_reason: ''
      pruned:
        - autodaily261118004256
        - autodaily261119004256
      repaired: []
      upids:
        - 'UPID:pve1:000003EE:00001B82:6B038C11:qmdelsnapshot:105:autosnap@pve!test:'
        - 'UPID:pve1:000003F2:00001B9E:6B038C12:qmdelsnapshot:105:autosnap@pve!test:'
      red: true
      held:
        - {label: daily, count: 2, newest: 1795394577}
      duration: 1.2
      warnings: []
      errors: []
summary:
  description: How many guests matched, and how many came to each status. The counts add up to C(matched).
  returned: when the cluster could be read
  type: dict
  sample:
    matched: 8
    created: 4
    pruned: 0
    unchanged: 0
    skipped: 1
    deferred: 1
    failed: 1
    timeout: 0
    unreachable: 1
storages:
  description: The storages of the guests, their use before the run and what the run adds at once.
  returned: when the cluster could be read
  type: list
  elements: dict
  contains:
    storage:
      description: Name of the storage.
      type: str
      returned: always
    node:
      description: Node that sees it; for a shared storage one of them.
      type: str
      returned: always
    type:
      description: Type of the storage, such as V(lvmthin).
      type: str
      returned: always
    shared:
      description: Whether all nodes share it.
      type: bool
      returned: always
    used:
      description: Bytes in use, V(null) where unknown.
      type: int
      returned: always
    size:
      description: Bytes in all, V(null) where unknown.
      type: int
      returned: always
    promised:
      description: Bytes that the snapshots of this run take at once.
      type: int
      returned: always
    percent:
      description: Use in percent before the run, V(null) where unknown.
      type: float
      returned: always
    limit:
      description: The most that it may be used, O(max_storage_percent).
      type: int
      returned: always
    ok:
      description: Whether the storage guard lets snapshots be taken on it.
      type: bool
      returned: always
    reason:
      description: Why not.
      type: str
      returned: always
  sample:
    - storage: ceph
      node: pve1
      type: rbd
      shared: true
      used: 1099511627776
      size: 10995116277760
      promised: 0
      percent: 10.0
      limit: 95
      ok: true
      reason: ''
    - storage: dir
      node: pve1
      type: dir
      shared: false
      used: 10737418240
      size: 107374182400
      promised: 0
      percent: 10.0
      limit: 95
      ok: true
      reason: ''
unmatched:
  description: Terms of the selector that matched nothing, or that could not be decided.
  returned: when the cluster could be read
  type: list
  elements: dict
  contains:
    term:
      description: The term as it was written.
      type: str
      returned: always
    exclude:
      description: Whether it is an exclusion.
      type: bool
      returned: always
    reason:
      description: What may be the reason.
      type: str
      returned: always
  sample:
    - term: '@tag-nosuch'
      exclude: false
      reason: matched no guest; is it spelt right, and does the token have VM.Audit on the guest?
templates:
  description: Selected templates, which are left out.
  returned: when the cluster could be read
  type: list
  elements: dict
  sample: [{"vmid": 900, "name": "debian13", "node": "pve1"}]
broken:
  description: Managed snapshots that an interrupted create or delete left behind. They are not counted and not pruned.
  returned: when the cluster could be read
  type: list
  elements: dict
  sample:
    - vmid: 102
      node: pve1
      snapshot: autodaily261101000000
      snapstate: delete
      snaptime: 1794394576
      age: 1820000
      lock: null
unfinished:
  description:
    - What became of earlier runs of this control node on this cluster that were cut off or had to leave a task running.
    - It is told once, or as long as a task runs.
  returned: when the cluster could be read
  type: list
  elements: dict
  contains:
    vmid:
      description: Id of the guest.
      type: int
      returned: always
    node:
      description: Its node at that time.
      type: str
      returned: always
    job:
      description: V(snap) or V(clean).
      type: str
      returned: always
    began:
      description: When that run began, Unix seconds.
      type: int
      returned: always
    snapshot:
      description: The snapshot that it was to make, or empty.
      type: str
      returned: always
    upid:
      description: The last task that it started for the guest, or empty.
      type: str
      returned: always
    result:
      description: The task's exit status, V(running), V(not started), or why it is unknown.
      type: str
      returned: always
  sample:
    - vmid: 100
      node: pve1
      job: snap
      began: 1795600000
      snapshot: autodaily261125020000
      upid: 'UPID:pve1:000003F3:00001BA5:6B038C16:qmsnapshot:100:autosnap@pve!test:'
      result: OK
hooks:
  description: The calls of the hook with exit code and output, or in check mode those that there would be.
  returned: when the cluster could be read
  type: list
  elements: dict
  sample:
    - phase: snap-create-pre
      vmid: 102
      rc: 0
      duration: 0.0
      output: 'AUTOSNAP_ERROR=

        AUTOSNAP_HOST=127.0.0.1:43875

        AUTOSNAP_NODE='
    - phase: snap-create-pre
      vmid: 101
      rc: 0
      duration: 0.0
      output: 'AUTOSNAP_ERROR=

        AUTOSNAP_HOST=127.0.0.1:43875

        AUTOSNAP_NODE='
guest_commands:
  description: The commands in guests with exit code and output, or in check mode those that there would be.
  returned: when the cluster could be read
  type: list
  elements: dict
  contains:
    vmid:
      description: Id of the guest.
      type: int
      returned: always
    phase:
      description: V(pre) or V(post).
      type: str
      returned: always
    rc:
      description: Exit code, V(null) where there is none.
      type: int
      returned: unless in check mode
    output:
      description: The first 1,024 characters of its output, then of its errors; 64 KiB for all guests together.
      type: str
      returned: unless in check mode
    duration:
      description: Seconds that it took.
      type: float
      returned: unless in check mode
    problem:
      description: What went wrong, or empty.
      type: str
      returned: unless in check mode
  sample:
    - vmid: 100
      phase: pre
      rc: 0
      output: flushed
      duration: 0.4
      problem: ''
unreadable:
  description: A sentence on each entry of the cluster that may be a guest and cannot be read. With O(on_unmatched=fail) each
    makes the task fail.
  returned: when the cluster could be read
  type: list
  elements: str
  sample: []
api_calls:
  description: Number of API calls sent.
  returned: when the cluster could be read
  type: int
  sample: 43
duration:
  description: Seconds that the run took.
  returned: when the cluster could be read
  type: float
  sample: 5.2
failure:
  description: What stopped the run, where something did.
  returned: when the run could not begin or was stopped
  type: dict
  contains:
    code:
      description: One of V(authentication), V(permission), V(parameter), V(certificate), V(host), V(node), V(cluster),
        V(answer), V(lost), V(dependency), V(interrupted), V(input), V(rate), V(machine),
        V(internal), V(error).
      type: str
      returned: always
    kind:
      description: Class of the message, such as V(quorum).
      type: str
      returned: always
    message:
      description: What the API said.
      type: str
      returned: always
    status:
      description: HTTP status.
      type: int
      returned: always
    errors:
      description: Refused parameters.
      type: dict
      returned: always
    upid:
      description: Task that it was about.
      type: str
      returned: always
  sample:
    code: authentication
    kind: other
    message: the API refused the credentials (Authentication failed!); check the token or user, and whether it is expired
      or disabled
    status: 401
    errors: {}
    upid: null
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pve.autosnap.plugins.module_utils import arguments, entry
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Report, connect
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.snap import snap


def main() -> None:
    module = AnsibleModule(supports_check_mode=True, **arguments.SNAP.to_kwargs())

    def job(access: arguments.Connection) -> Report:
        settings = arguments.snap(module.params)
        return snap(settings, connect(access), access.secrets, int(time.time()), module.check_mode, module._diff)

    entry.run(module, job)


if __name__ == "__main__":
    main()
