#!/usr/bin/python
# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: autosnap_agent
short_description: List in which Proxmox VE VMs the guest agent is enabled, and enable it
version_added: 0.1.0
description:
  - Tells of each selected VM whether its option for the QEMU guest agent is on, which a snapshot needs to freeze file systems.
  - With O(enable=true), switches it on where it is off. Its other settings stay as they are.
  - A running VM gets the agent's device at its next start only. It is told which need one; none is restarted.
  - Containers have no agent and are left out. The agent itself is installed by the role P(pve.autosnap.guest_agent#role).
  - Needs C(VM.Audit), and C(VM.Config.Options) with O(enable=true).
author:
  - pve.autosnap contributors (@pve-autosnap)
extends_documentation_fragment:
  - pve.autosnap.connection
  - pve.autosnap.selection
  - pve.autosnap.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  enable:
    description: Whether to switch the option on where it is off.
    type: bool
    default: false
seealso:
  - module: pve.autosnap.autosnap_snap
"""

EXAMPLES = r"""
- name: List the VMs without the agent
  pve.autosnap.autosnap_agent:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    ca_path: /etc/ssl/pve-root-ca.pem
    guests: "@all"
  register: agents

- name: Show them
  ansible.builtin.debug:
    msg: "{{ agents.guests | selectattr('status', 'equalto', 'disabled') | map(attribute='name') }}"

- name: Enable it in a pool
  pve.autosnap.autosnap_agent:
    api_host: pve1.example.com
    api_token_file: /etc/autosnap/token
    ca_path: /etc/ssl/pve-root-ca.pem
    guests: "@pool-prod"
    enable: true
"""

RETURN = r"""
msg:
  description: What was found or done in one sentence, or why it failed.
  returned: always
  type: str
  sample: "5 VMs: 2 enabled, 1 waiting, 2 disabled"
guests:
  description: One entry per VM.
  returned: when the cluster could be read
  type: list
  elements: dict
  contains:
    vmid:
      description: Id of the VM.
      type: int
      returned: always
    name:
      description: Its name.
      type: str
      returned: always
    node:
      description: Its node.
      type: str
      returned: always
    running:
      description: Whether it runs.
      type: bool
      returned: always
    status:
      description:
        - V(enabled), V(waiting) for its next start, V(disabled), V(failed) or V(unreachable).
        - In check mode what it would be.
      type: str
      returned: always
    reason:
      description: Why, or what to do.
      type: str
      returned: always
    agent:
      description: The option as it is written for the next start; in check mode as it is.
      type: str
      returned: always
    changed:
      description: Whether it was switched on.
      type: bool
      returned: always
    restart:
      description: Whether the VM has to be shut down and started again for it.
      type: bool
      returned: always
  sample:
    - vmid: 100
      name: web1
      node: pve1
      running: true
      status: waiting
      reason: shut it down and start it again in Proxmox VE; a reboot from inside is not enough
      agent: enabled=1
      changed: true
      restart: true
summary:
  description: How many VMs matched, and how many came to each status.
  returned: when the cluster could be read
  type: dict
  sample: {"matched": 5, "enabled": 2, "waiting": 1, "disabled": 2, "failed": 0, "unreachable": 0}
unmatched:
  description: Terms of the selector that matched nothing, or that could not be decided.
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
  sample: 18
duration:
  description: Seconds that it took.
  returned: when the cluster could be read
  type: float
  sample: 0.4
failure:
  description: What stopped it, as in RV(pve.autosnap.autosnap_snap#module:failure).
  returned: when it could not begin or was stopped
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.pve.autosnap.plugins.module_utils import arguments, entry
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.agent import agent
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.run import Report, connect


def main() -> None:
    module = AnsibleModule(supports_check_mode=True, **arguments.AGENT.to_kwargs())

    def job(access: arguments.Connection) -> Report:
        return agent(arguments.agent(module.params), connect(access), module.check_mode, module._diff)

    entry.run(module, job)


if __name__ == "__main__":
    main()
