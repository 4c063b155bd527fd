# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML with texts that Ansible does not template."""

from __future__ import annotations

import yaml


class Unsafe(str):
    """A text that Ansible does not template: C(!unsafe) in YAML."""


class Loader(yaml.SafeLoader):
    """Reads C(!unsafe)."""


class Dumper(yaml.SafeDumper):
    """Writes it."""


Loader.add_constructor("!unsafe", lambda loader, node: Unsafe(loader.construct_scalar(node)))
Dumper.add_representer(Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text)))
