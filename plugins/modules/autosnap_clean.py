#!/usr/bin/python
# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: autosnap_clean
short_description: Prune snapshots of Proxmox VE guests
version_added: 0.1.0
description:
  - Deletes the managed snapshots of the labels that the retention does not keep. Takes none.
  - The newest whole snapshot of a guest and label stays, except with O(keep=0).
  - Foreign snapshots are never counted and never touched. Deletes are never forced, except by O(repair=force).
author:
  - pve.autosnap contributors (@pve-autosnap)
extends_documentation_fragment:
  - pve.autosnap.connection
  - pve.autosnap.selection
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
    support: full
options:
  label:
    description:
      - Labels, or V(*) for every label.
    type: list
    elements: str
    required: true
  repair:
    description:
      - What to do about broken managed snapshots of the labels, which an interrupted create or delete left behind.
      - V(report) lists them. V(retry) deletes those whose deletion was interrupted (C(snapstate=delete)) once more.
      - V(force) deletes all of them with the C(force) of the API, which drops the entry even where a disk's snapshot cannot be
        removed, so that data may stay behind on the storage. It is the only forced delete there is.
      - Nothing is done on a locked guest. Where the lock stays, the reason has the C(qm unlock) or C(pct unlock) line for root.
    type: str
    choices: [report, retry, force]
    default: report
seealso:
  - module: pve.autosnap.autosnap_snap
  - module: pve.autosnap.autosnap_info
"""

EXAMPLES = r"""
- name: Keep 3 daily snapshots of every guest
  pve.autosnap.autosnap_clean:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all"
    label: daily
    keep: 3

- name: Thin out two labels with the same rules
  pve.autosnap.autosnap_clean:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all,-@tag-gold"
    label: [daily, weekly]
    retention:
      within: 2d
      daily: 5
      weekly: 2

- name: Delete every managed snapshot of a guest that is to be migrated
  pve.autosnap.autosnap_clean:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "100"
    label: "*"
    keep: 0

- name: Remove what an interrupted deletion left behind, and prune nothing else
  pve.autosnap.autosnap_clean:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all"
    label: "*"
    keep: 1000
    repair: retry
"""

RETURN = r"""
msg:
  description: What was done in one sentence, or why the run failed.
  returned: always
  type: str
  sample:
    'option ''guests'': ''@tag-nosuch'' matched no guest; is it spelt right, and does the token have VM.Audit on the
      guest?'
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
      description: Always empty here; see RV(pve.autosnap.autosnap_snap#module:guests[].consistency).
      type: str
      returned: always
    consistency_reason:
      description: Always empty here.
      type: str
      returned: always
    pruned:
      description: Names of the snapshots deleted.
      type: list
      elements: str
      returned: always
    repaired:
      description: Names of the broken snapshots deleted because of O(repair).
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
      status: pruned
      reason: ''
      snapshot: ''
      consistency: ''
      consistency_reason: ''
      pruned:
        - autodaily261121004256
        - autodaily261122004256
      repaired: []
      upids:
        - 'UPID:pve1:000003F3:00001BA5:6B038C16:qmdelsnapshot:100:autosnap@pve!test:'
        - 'UPID:pve1:000003F8:00001BC8:6B038C16:qmdelsnapshot:100:autosnap@pve!test:'
      red: false
      held:
        - {label: daily, count: 2, newest: 1795394577}
      duration: 1.0
      warnings: []
      errors: []
summary:
  description: How many guests matched, and how many came to each status. The counts add up to C(matched).
  returned: when the cluster could be read
  type: dict
  sample:
    matched: 4
    created: 0
    pruned: 4
    unchanged: 0
    skipped: 0
    deferred: 0
    failed: 0
    timeout: 0
    unreachable: 0
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
    ok:
      description: Whether the storage guard lets snapshots be taken on it.
      type: bool
      returned: always
    reason:
      description: Why not.
      type: str
      returned: always
  sample: []
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
  sample: []
guest_commands:
  description: Always empty here; see RV(pve.autosnap.autosnap_snap#module:guest_commands).
  returned: when the cluster could be read
  type: list
  elements: dict
  sample: []
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
  sample: 29
duration:
  description: Seconds that the run took.
  returned: when the cluster could be read
  type: float
  sample: 1.1
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pve.autosnap.plugins.module_utils import arguments, entry
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.clean import clean
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Report, connect


def main() -> None:
    module = AnsibleModule(supports_check_mode=True, **arguments.CLEAN.to_kwargs())

    def job(access: arguments.Connection) -> Report:
        settings = arguments.clean(module.params)
        return clean(settings, connect(access), access.secrets, module.check_mode, module._diff)

    entry.run(module, job)


if __name__ == "__main__":
    main()
