# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail through the real community.general, as a mail server receives it."""

from __future__ import annotations

import email
import email.policy
import pathlib
import re
from typing import Any

from simulator.running import Running
from simulator.sinks import Sinks
from test_playbooks import Control
from worlds import HOSTILE, HOSTILE_HOOK, STEERING, guest, rename, world


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


def test_hostile_text_steers_no_mail(tmp_path: pathlib.Path) -> None:
    """A name and what a hook printed, in the subject, the text and the page."""
    sinks = Sinks()
    hook = tmp_path / "hook"
    hook.write_text(HOSTILE_HOOK)
    hook.chmod(0o755)
    mail: dict[str, Any] = {"to": ["ops@example.com"], "server": "127.0.0.1", "port": sinks.smtp_port, "secure": "never",
                            "from": "autosnap@example.com"}
    with Running(world(guest(100))) as cluster:
        rename(cluster, 100, HOSTILE)
        control = Control(tmp_path, cluster)
        assert control.run("pve.autosnap.snap", autosnap_guests="100", autosnap_hook=str(hook),
                           autosnap_on_hook_failure="skip_guest", autosnap_notify={"mail": mail}).returncode == 2
        assert control.run("pve.autosnap.report", autosnap_guests="@all", autosnap_label=None, autosnap_cluster=HOSTILE[:-1],
                           autosnap_notify={"when": "always", "mail": mail}).returncode == 0
    for text in sinks.mails:
        letter = email.message_from_string(text, policy=email.policy.default)
        parts = [part.get_content() for part in letter.walk() if not part.is_multipart()]
        said = [letter["Subject"], *(part if isinstance(part, str) else part.decode() for part in parts)]
        print("=== {0}\n{1}".format(said[0], said[1]))
        for words in said:
            assert not [one for one in STEERING if one in words], words
            assert not re.search(r"^PLAY RECAP|^localhost : ok=9", words, re.MULTILINE), words
        assert "web?[2J?[1;1H" in "".join(said)
    assert len(sinks.mails) == 2
    sinks.close()
