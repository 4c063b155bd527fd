# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  guests:
    description:
      - The selector. A string of terms separated by commas, or a list of such strings.
      - V(100) an id; V(web01) a name; V(100:110) a range of ids; V(%web%) or V(*web*) a name with that text in it; V(web%)
        a name that starts with it; V(%web) a name that ends with it.
      - V(@all) all guests; V(@node-NAME) those on a node (also V(@all-NAME)); V(@pool-NAME) those in a pool and its
        sub-pools; V(@tag-NAME) those with a tag; V(@type-qemu) or V(@type-lxc).
      - V(-TERM) excludes; V(TERM&TERM) means both. The result is the union of the inclusions minus the union of the
        exclusions, whatever their order. Upper and lower case are the same.
      - Always quote selectors, since several of their characters mean something else in YAML.
    type: list
    elements: str
    required: true
  on_unmatched:
    description:
      - Whether an inclusion that matches nothing, or a selector that matches no guest at all, fails the run at its end or
        only warns. Exclusions that match nothing always warn only.
    type: str
    choices: [fail, warn]
    default: fail
"""

    EXPECT = r"""
options:
  expect_guests:
    description:
      - A number of guests of which fewer fail the run, or a list of ids of which any other selection fails it.
      - The guests that matched are dealt with all the same.
    type: raw
"""
