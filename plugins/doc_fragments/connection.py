# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  api_host:
    description:
      - Hosts of the cluster's API, each as V(host), V(host:port), V([IPv6]:port) or V(https://host:port). One item may name
        several, with blanks or commas between them.
      - The first that answers is used; the next one takes over when it stops answering, also in mid-run. All of them must
        belong to the same cluster.
      - If not set, the environment variable E(PROXMOX_HOST) is used.
    type: list
    elements: str
    required: true
  api_port:
    description:
      - Port of the hosts that name none.
      - If not set, the environment variable E(PROXMOX_PORT) is used.
    type: int
    default: 8006
  api_user:
    description:
      - User with its realm, such as V(autosnap@pve).
      - Not needed where the token names its user.
      - If not set, the environment variable E(PROXMOX_USER) is used.
    type: str
  api_password:
    description:
      - Password of O(api_user). An API token is the better choice for jobs.
      - If no method is given as an option, the environment variable E(PROXMOX_PASSWORD) is used.
    type: str
  api_password_file:
    description:
      - File with the password of O(api_user) in one line, on the machine that runs the module.
      - If no method is given as an option, the environment variable E(PROXMOX_PASSWORD_FILE) is used.
    type: path
  api_otp:
    description:
      - One-time code of a user with a second factor. Of little use for jobs; tokens need none.
      - If not set, the environment variable E(PROXMOX_OTP) is used.
    type: str
  api_token_id:
    description:
      - Token as V(user@realm!id), or V(id) alone beside O(api_user).
      - If not set, the environment variable E(PROXMOX_TOKEN_ID) is used together with E(PROXMOX_TOKEN_SECRET).
    type: str
  api_token_secret:
    description:
      - Secret of O(api_token_id).
      - If no method is given as an option, the environment variable E(PROXMOX_TOKEN_SECRET) is used.
    type: str
  api_token:
    description:
      - Token and secret in one, as V(USER@REALM!TOKENID=SECRET), which is how cv4pve-autosnap takes it.
      - If no method is given as an option, the environment variable E(PROXMOX_TOKEN) is used.
    type: str
  api_token_file:
    description:
      - File with the value of O(api_token) in one line, on the machine that runs the module.
      - If no method is given as an option, the environment variable E(PROXMOX_TOKEN_FILE) is used.
    type: path
  validate_certs:
    description:
      - Whether to verify the hosts' certificates. Better than V(false) is O(ca_path).
      - If not set, the environment variable E(PROXMOX_VALIDATE_CERTS) is used.
    type: bool
    default: true
  ca_path:
    description:
      - File with the certificate authority of the hosts. For the certificates that Proxmox VE makes itself this is a copy
        of C(/etc/pve/pve-root-ca.pem) of any node.
      - If not set, the environment variable E(PROXMOX_CA_PATH) is used.
    type: path
  api_timeout:
    description:
      - How long one call to the API may take as a whole, such as V(30s); then its connection is cut. It does not limit tasks.
      - If not set, the environment variable E(PROXMOX_API_TIMEOUT) is used.
    type: str
    default: 30s
requirements:
  - proxmoxer >= 2.2
  - requests >= 2.28
notes:
  - A method to authenticate that is given as an option wins over every method from the environment.
  - Use C(module_defaults) with C(group/pve.autosnap.autosnap) to set
    these options once.
  - Needs Python 3.9 or newer where it runs, which is usually the control node.
"""
