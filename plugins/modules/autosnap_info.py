#!/usr/bin/python
# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: autosnap_info
short_description: List the managed snapshots of Proxmox VE guests
version_added: 0.1.0
description:
  - Lists the managed snapshots of the selected guests, and the broken ones among them.
  - Needs C(VM.Audit) only.
author:
  - pve.autosnap contributors (@pve-autosnap)
extends_documentation_fragment:
  - pve.autosnap.connection
  - pve.autosnap.selection
  - pve.autosnap.selection.expect
  - pve.autosnap.recognition
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

- name: Fail unless each of three guests has a daily snapshot that is younger than 26 hours
  pve.autosnap.autosnap_info:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    guests: "100,101,102"
    label: daily
    expect_guests: [100, 101, 102]
  register: daily
  failed_when: >-
    daily is failed or
    daily.guests | rejectattr('snapshots') | length > 0 or
    daily.guests | selectattr('snapshots') | map(attribute='snapshots.-1.age') | max > 26 * 3600
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
    lock:
      description: Lock of the guest, V(null) without.
      type: str
      returned: always
    foreign:
      description: Number of foreign snapshots.
      type: int
      returned: always
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
          description: V(whole), V(in_progress), V(broken), or V(bad_time) where its time cannot be true.
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
  sample:
    - vmid: 100
      name: web1
      type: qemu
      node: pve1
      status: ok
      reason: ''
      lock: null
      foreign: 1
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
      lock: null
      foreign: 0
      snapshots: []
summary:
  description: How many guests matched, how many could not be read, and the number of managed snapshots listed.
  returned: when the cluster could be read
  type: dict
  sample: {"matched": 3, "unreachable": 1, "snapshots": 3}
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
        V(answer), V(dependency), V(input), V(error).
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
