# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report page in a real browser. AUTOSNAP_PICTURES names a directory where pictures of it are kept."""

from __future__ import annotations

import os
import pathlib
import shutil
import time
from typing import Any, Iterator

import pytest
from clusters import SCRIPT
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
PICTURES = os.environ.get("AUTOSNAP_PICTURES")


@pytest.fixture(scope="module", name="browser")
def fixture_browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(name="complaints", autouse=True)
def fixture_complaints() -> Iterator[list[str]]:
    """What a page asked the network for, and what it complained of, until a test is over."""
    complaints: list[str] = []
    yield complaints
    assert complaints == []


def opened(browser: Browser, path: pathlib.Path, complaints: list[str], **context: Any) -> Page:
    page = browser.new_context(**context).new_page()
    page.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append("a dialog: " + dialog.message))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    return page


def column(page: Page, number: int) -> list[str]:
    """The visible cells of a column of the guests."""
    texts: list[str] = page.locator("#table tbody tr:visible td:nth-child({0})".format(number)).all_inner_texts()
    return texts


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(pathlib.Path(PICTURES) / (name + ".png")), full_page=name != "wide-1000")


def test_problems_come_first_and_guests_can_be_sorted(
    browser: Browser, pages: dict[int, pathlib.Path], complaints: list[str]
) -> None:
    page = opened(browser, pages[40], complaints, viewport={"width": 1400, "height": 900})
    picture(page, "wide")
    assert page.locator("h1 .status").inner_text().lower() == "critical"
    levels = page.locator("#problems td:first-child").all_inner_texts()
    assert levels and levels == sorted(levels, key=["critical", "warning"].index)
    assert {"missing", "stale", "broken", "unreachable", "unprotected", "ok"} == set(column(page, 1))
    page.get_by_role("button", name="Id").click()
    ids = [int(text) for text in column(page, 2)]
    assert ids == sorted(ids) and len(ids) == 40
    page.get_by_role("button", name="Id").click()
    assert [int(text) for text in column(page, 2)] == sorted(ids, reverse=True)
    page.get_by_role("button", name="Newest").click()
    assert column(page, 6)[0] == "none"
    assert page.locator("th[aria-sort=ascending]").count() == 1


def test_guests_can_be_filtered(
    browser: Browser, pages: dict[int, pathlib.Path], complaints: list[str]
) -> None:
    page = opened(browser, pages[40], complaints)
    page.locator("#filter").fill("web pve1")
    assert column(page, 3) and all("web" in name or "x" * 50 in name for name in column(page, 3))
    assert set(column(page, 4)) == {"pve1"}
    page.locator("#filter").fill("")
    page.get_by_role("button", name="stale").click()
    assert set(column(page, 1)) == {"stale"}
    page.get_by_role("button", name="missing").click()
    assert set(column(page, 1)) == {"stale", "missing"}
    assert page.locator("#shown").inner_text() == "{0} of 40".format(len(column(page, 1)))
    page.locator("#filter").fill("102 script")
    assert page.locator("#shown").inner_text() == "0 of 40", "of the states that are chosen"
    page.get_by_role("button", name="stale").click()
    page.get_by_role("button", name="missing").click()
    [name] = column(page, 3)
    assert name.count(SCRIPT) == 2, "the name and a tag, as text"
    assert SCRIPT in page.locator("#storages").inner_text() and SCRIPT in page.locator("#foreign").inner_text()
    page.locator("#filter").fill("no such guest")
    assert column(page, 1) == [] and page.locator("#shown").inner_text() == "0 of 40"


@pytest.mark.parametrize(("name", "context"), [
    ("narrow", {"viewport": {"width": 390, "height": 844}, "is_mobile": True}),
    ("dark", {"viewport": {"width": 1400, "height": 900}, "color_scheme": "dark"})])
def test_other_views(
    browser: Browser, pages: dict[int, pathlib.Path], complaints: list[str], name: str, context: dict[str, Any]
) -> None:
    page = opened(browser, pages[40], complaints, **context)
    picture(page, name)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it has to be scrolled sideways"
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(13, 17, 23)" if name == "dark" else "rgb(255, 255, 255)")


def test_it_can_be_printed(
    browser: Browser, pages: dict[int, pathlib.Path], complaints: list[str]
) -> None:
    page = opened(browser, pages[40], complaints, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#filter").is_visible()
    assert len(page.pdf()) > 10_000


def test_a_thousand_guests(
    browser: Browser, pages: dict[int, pathlib.Path], complaints: list[str]
) -> None:
    began = time.monotonic()
    page = opened(browser, pages[1000], complaints, viewport={"width": 1400, "height": 900})
    ready = time.monotonic() - began
    picture(page, "wide-1000")
    page.locator("#filter").fill("web")
    assert len(column(page, 3)) > 100
    assert pages[1000].stat().st_size < 3_000_000
    print("{0} bytes, open after {1:.2f} s".format(pages[1000].stat().st_size, ready))
