#!/usr/bin/python
# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: autosnap_info
short_description: List the managed snapshots of Proxmox VE guests, and tell whether they are as expected
version_added: 0.1.0
description:
  - Lists the managed snapshots of the selected guests, and the broken ones among them.
  - With O(expect), tells of each guest whether it has the snapshots that it should have.
  - With O(keep) or O(retention), shows what that retention makes of each snapshot.
  - Needs C(VM.Audit) only, and C(Datastore.Audit) to see the storages.
author:
  - pve.autosnap contributors (@pve-autosnap)
extends_documentation_fragment:
  - pve.autosnap.connection
  - pve.autosnap.selection
  - pve.autosnap.selection.expect
  - pve.autosnap.recognition
  - pve.autosnap.retention
  - pve.autosnap.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
  idempotent:
    support: full
options:
  label:
    description:
      - Labels, or V(*) for every label.
    type: list
    elements: str
    default: ["*"]
  expect:
    description:
      - What each guest should have. A guest that meets one expectation and not another is as bad as the worst of them.
      - Only whole snapshots count. Those that are broken, in progress or of a time that cannot be true protect nobody.
      - Guests that none covers are V(unprotected).
    type: list
    elements: dict
    suboptions:
      label:
        description: Label of the snapshots.
        type: str
        required: true
      max_age:
        description: The newest must not be older than this by the server's clock, such as V(26h). Any age where it is not set.
        type: str
      min_count:
        description: So many there must be at least.
        type: int
        default: 1
      guests:
        description: Those of the selected guests that it is for, as in O(guests). All of them where it is not set.
        type: list
        elements: str
  max_foreign_age:
    description:
      - Foreign snapshots that are older than this are listed in RV(old_foreign), such as V(30d). V(0) lists none.
      - They are never touched.
    type: str
    default: "0"
  fail_on_status:
    description: Whether RV(status) fails the task when it is this or worse.
    type: str
    choices: [never, warning, critical]
    default: never
  max_storage_percent:
    description: A storage that is fuller than this is not V(ok) in RV(storages).
    type: int
    default: 95
  min_storage_free:
    description: A storage with less free space than this is not V(ok) in RV(storages), such as V(50G).
    type: str
    default: "0"
seealso:
  - module: pve.autosnap.autosnap_snap
  - module: pve.autosnap.autosnap_clean
"""

EXAMPLES = r"""
- name: List all managed snapshots
  pve.autosnap.autosnap_info:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all"
  register: status

- name: Fail unless every guest has a fresh daily snapshot, and those of production four weekly ones
  pve.autosnap.autosnap_info:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all,-@tag-nosnap"
    expect:
      - {label: daily, max_age: 26h}
      - {label: weekly, max_age: 8d, min_count: 4, guests: "@pool-prod"}
    max_foreign_age: 30d
    fail_on_status: critical
  register: health

- name: Show what a new retention would delete at the next run, before it is put into the job
  pve.autosnap.autosnap_info:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "@all"
    label: daily
    retention: {last: 3, daily: 7, weekly: 4}
  register: preview

- name: Show it
  ansible.builtin.debug:
    msg: "{{ dict(preview.guests | map(attribute='name') | zip(preview.guests | map(attribute='next_prunes'))) }}"
"""

RETURN = r"""
msg:
  description: What was done in one sentence, or why the run failed.
  returned: always
  type: str
  sample:
    'option ''guests'': ''nosuch'' matched no guest; is it spelt right, and does the token have VM.Audit on the guest?'
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
      description: V(ok), or V(unreachable) where the guest could not be read.
      type: str
      returned: always
    reason:
      description: Why it could not be read.
      type: str
      returned: always
    tags:
      description: Tags of the guest.
      type: list
      elements: str
      returned: always
    lock:
      description: Lock of the guest, V(null) without.
      type: str
      returned: always
    foreign:
      description: Number of foreign snapshots.
      type: int
      returned: always
    health:
      description:
        - V(ok), V(stale) where the newest snapshot is too old, V(missing) where there are too few, V(broken) where one of the
          label was left half made or half deleted, V(unreachable) where the guest could not be read, or V(unprotected) where no
          expectation covers it.
        - That of the worst expectation.
      type: str
      returned: with O(expect)
    health_reason:
      description: Why, with the error of the last snapshot task where that failed.
      type: str
      returned: with O(expect)
    expectations:
      description: Every expectation that covers the guest, with C(label), C(status), C(level), C(reason), and C(count) and
        C(newest) of the whole snapshots; C(newest) in Unix seconds.
      type: list
      elements: dict
      returned: with O(expect)
    next_prunes:
      description: Names of the snapshots that the next run of each label would delete with this retention.
      type: list
      elements: str
      returned: with O(keep) or O(retention)
    snapshots:
      description: Managed snapshots of the labels, oldest first.
      type: list
      elements: dict
      returned: always
      contains:
        name:
          description: Name of the snapshot.
          type: str
          returned: always
        label:
          description: Its label.
          type: str
          returned: always
        state:
          description:
            - V(whole), V(in_progress), V(broken), or V(bad_time) where its time cannot be true.
            - V(ambiguous) where its name may be one of a shorter label in another timestamp format, unless its label is named in
              O(label) or O(expect). Such a snapshot is neither counted nor pruned by V(*).
          type: str
          returned: always
        snaptime:
          description: When it was made, Unix seconds.
          type: int
          returned: always
        time:
          description: The same in O(timezone), ISO 8601.
          type: str
          returned: always
        age:
          description: Seconds since then by the server's clock.
          type: int
          returned: always
        parent:
          description: Name of the parent.
          type: str
          returned: always
        description:
          description: Its description.
          type: str
          returned: always
        vmstate:
          description: Whether it holds the RAM.
          type: bool
          returned: always
        keep:
          description: Whether the retention keeps it as things are, without a new snapshot.
          type: bool
          returned: with O(keep) or O(retention)
        why:
          description: Why, such as V(daily 2026-11-22).
          type: list
          elements: str
          returned: with O(keep) or O(retention)
  sample:
    - vmid: 100
      name: web1
      type: qemu
      node: pve1
      status: ok
      reason: ''
      tags: [prod]
      lock: null
      foreign: 1
      health: ok
      health_reason: ''
      expectations:
        - {label: daily, status: ok, level: ok, reason: '', count: 1, newest: 1795394577}
      snapshots:
        - name: autodaily261123004257
          label: daily
          state: whole
          snaptime: 1795394577
          time: '2026-11-23T00:42:57+00:00'
          age: 6
          parent: before_upgrade
          description: cv4pve-autosnap
          vmstate: false
    - vmid: 106
      name: on-dead-node
      type: qemu
      node: pve3
      status: unreachable
      reason: node pve3 is offline
      tags: []
      lock: null
      foreign: 0
      health: unreachable
      health_reason: node pve3 is offline
      expectations:
        - {label: daily, status: unreachable, level: critical, reason: node pve3 is offline, count: 0, newest: null}
      snapshots: []
summary:
  description: How many guests matched, how many could not be read, and the number of managed snapshots listed.
  returned: when the cluster could be read
  type: dict
  sample: {"matched": 3, "unreachable": 1, "snapshots": 3}
status:
  description:
    - V(critical) where a guest is stale, missing or unreachable, or broken without enough good snapshots; V(warning) where
      something else needs a look, such as an unprotected guest, a broken or an old foreign snapshot, a full storage, or a term
      that matched nothing; else V(ok).
  returned: when the cluster could be read
  type: str
  sample: critical
health:
  description: Number of guests by RV(guests[].health).
  returned: with O(expect)
  type: dict
  sample: {"ok": 1, "stale": 0, "missing": 0, "broken": 0, "unreachable": 1, "unprotected": 0}
old_foreign:
  description: Foreign snapshots older than O(max_foreign_age).
  returned: when the cluster could be read
  type: list
  elements: dict
  sample:
    - vmid: 100
      name: web1
      node: pve1
      snapshot: before_upgrade
      snaptime: 1791394577
      age: 4000000
      description: by Tom
storages:
  description: Storages that may hold disks of guests, as in M(pve.autosnap.autosnap_snap); C(ok) tells whether they keep the
    limits.
  returned: when the cluster could be read
  type: list
  elements: dict
  sample:
    - storage: local-lvm
      node: pve1
      type: lvmthin
      shared: false
      used: 107374182400
      size: 536870912000
      promised: 0
      percent: 20.0
      limit: 95
      ok: true
      reason: ''
server_time:
  description: The server's clock, Unix seconds; ages are counted from it.
  returned: when the cluster could be read
  type: int
  sample: 1795394583
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
    - term: nosuch
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
      task: 'UPID:pve1:000003F3:00001BA5:6AF42C10:qmdelsnapshot:102:autosnap@pve!test:'
      task_result: unexpected status
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
  sample: 3
duration:
  description: Seconds that the run took.
  returned: when the cluster could be read
  type: float
  sample: 0.0
failure:
  description: What stopped the run, where something did.
  returned: when the run could not begin or was stopped
  type: dict
  contains:
    code:
      description: One of V(authentication), V(permission), V(parameter), V(certificate), V(host), V(node), V(cluster),
        V(answer), V(dependency), V(input), V(rate), V(machine),
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
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.info import info
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Report, connect


def main() -> None:
    module = AnsibleModule(supports_check_mode=True, **arguments.INFO.to_kwargs())

    def job(access: arguments.Connection) -> Report:
        return info(arguments.info(module.params), connect(access))

    entry.run(module, job)


if __name__ == "__main__":
    main()
