# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail through the real community.general, as a mail server receives it."""

from __future__ import annotations

import email
import email.policy
import pathlib
from typing import Any

from simulator.running import Running
from simulator.sinks import Sinks
from test_playbooks import Control
from worlds import guest, world


def test_a_report_comes_by_mail_with_its_page(tmp_path: pathlib.Path) -> None:
    sinks = Sinks()
    with Running(world(guest(100), guest(101, storage="full"))) as cluster:
        mail: dict[str, Any] = {"to": ["ops@example.com"], "server": "127.0.0.1", "port": sinks.smtp_port, "secure": "never",
                                "from": "autosnap@example.com"}
        run = Control(tmp_path, cluster).run(
            "pve.autosnap.report", autosnap_guests="@all", autosnap_label=None, autosnap_cluster="prod",
            autosnap_expect=[{"label": "daily", "max_age": "26h"}], autosnap_notify={"mail": mail})
        assert run.returncode == 0, run.stdout
        [text] = sinks.mails
        letter = email.message_from_string(text, policy=email.policy.default)
        print(text[:1500])
        assert letter["Subject"] == "pve.autosnap: report of prod is critical" and "ops@example.com" in letter["To"]
        plain, page = letter.iter_parts()
        assert plain.get_content().startswith("100 vm100 on pve1: missing (no whole snapshot of label daily)")
        assert page.get_filename() == "autosnap-report.html"
        assert page.get_content().decode() == (tmp_path / "autosnap-report.html").read_text()
        # A mail server that is away makes the play red, and says so.
        failed = Control(tmp_path, cluster).run(
            "pve.autosnap.snap", autosnap_guests="100", autosnap_notify={"when": "always", "mail": {**mail, "port": 1}})
        assert failed.returncode == 2 and "mail could not be told of this run" in " ".join(failed.stdout.split())
    sinks.close()
