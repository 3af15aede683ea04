"""The console in a real browser, before a serving process of fakes: safe, readable, by keyboard, with a token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import CHROMIUM, Watched, chromium
from house import wait_for
from http_server import running
from serving_parts import Serving

from stream_ft.release import dossier
from stream_ft.serve.console import assemble

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if not CHROMIUM.exists():
    pytest.skip("there is no /usr/bin/chromium (apt install chromium)", allow_module_level=True)

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


def learner(now: float) -> dict[str, Any]:
    """What a learner writes of itself, with a text in it that wants to be markup."""
    kinds = ("promotion", "refusal", "rollback", "drift", "failure", "note")
    return {
        "time": now, "pid": 1, "name": "one", "ready": True, "why": "", "accuracy": 0.931, "accuracy_over": 300,
        "correction_ratio": 0.2, "corrections_over": 40, "labels": 1_234, "lag": 3, "drift_alarms": 2,
        "counts": {"train": 900, "holdout": 40, "waiting": 1}, "round": None,
        "next_round": {"reason": EVIL, "in_s": 12.0},
        "drift": {"detector": "adwin", "error": 0.069, "pending": True},
        "frozen": {
            "version": "v0.0.0", "after": 1_000, "accuracy": 0.71, "live_accuracy": 0.93, "over": 300, "lost": "",
        },
        "curve": [
            {
                "events": 30 + 5 * i,
                "time": now - 600 + 2 * i,
                "live": min(0.95, i / 100),
                "frozen": 0.7 if i > 99 else None,
            }
            for i in range(200)
        ],
        "happenings": [
            {"kind": kind, "text": f"{kind}: {EVIL}", "time": now - 500 + 60 * i, "version": "v1.1.0", "numbers": {}}
            for i, kind in enumerate(kinds * 2)
        ],
    }  # fmt: skip


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[tuple[Serving, str]]:
    """One that answers at a URL, with two versions, labels and feedback that want to be markup."""
    with ExitStack() as stack:
        made = stack.enter_context(Serving(folder, **settings))
        made.genesis("refund", EVIL)
        made.promote("better", "refund", "delivery", EVIL)
        made.follower.step()
        url = stack.enter_context(running(made.app))
        (folder / "learn.status.json").write_text(json.dumps(learner(time.time())))
        with httpx.Client(base_url=url, trust_env=False) as http:
            if token := settings.get("token"):
                http.headers["authorization"] = f"Bearer {token}"
            for number in range(12):
                (answer,) = http.post("/predict", json={"inputs": f"{EVIL} {number}"}).json()["predictions"]
                said = {"prediction_id": answer["id"], "label": EVIL, "source": f"ann {EVIL}"}
                assert http.post("/feedback", json=said).status_code == 202
        yield made, url


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, str]]:
    with serving(tmp_path_factory.mktemp("console")) as made:
        yield made


def opened(browser: Any, url: str, **context: Any) -> Watched:
    watched = Watched(browser, **({"viewport": DESKTOP} | context))
    watched.page.goto(f"{url}/console")
    watched.page.wait_for_selector("#feedback table")
    return watched


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_shows_everything_asks_nobody_else_and_scrolls_nowhere_sideways(
    browser: Any, house: tuple[Serving, str], viewport: dict[str, int], scheme: str
) -> None:
    _, url = house
    watched = opened(browser, url, viewport=viewport, color_scheme=scheme)
    page = watched.page
    assert page.inner_text("#force strong") == "v1.1.0"
    tiles = page.inner_text("#tiles")
    assert all(text in tiles for text in ("93.1 %", "71.0 %", "2 alarms", "900", "20.0 %"))
    assert page.locator("#chart svg.curve path.live").count() == 1
    assert page.locator("#chart svg.curve .mark").count() == 8
    assert page.locator("#versions tbody tr").count() == 2
    assert page.locator("#feedback tbody tr").count() == 8
    for name, rows in (("Versions", 3), ("Feedback", 9)):  # on a phone a row is a block, and stays a row to who listens
        table = page.get_by_role("region", name=name).get_by_role("table")
        assert table.get_by_role("row").count() == rows
        assert table.get_by_role("cell").count() > rows
    page.click("#feedback .more button")
    assert page.locator("#feedback tbody tr").count() == 12
    page.fill("#text", "where is it")
    page.click("#ask button")
    page.wait_for_selector(".answer")
    page.click("#versions .name button >> nth=0")
    page.wait_for_selector(".detail")
    assert "lora" in page.inner_text(".detail"), "the manifest of its base"
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 23, 27)") == (scheme == "dark")
    assert watched.said == []
    assert watched.outside(url) == []
    watched.close()


def test_texts_of_users_are_texts(browser: Any, house: tuple[Serving, str]) -> None:
    _, url = house
    watched = opened(browser, url)
    page = watched.page
    page.fill("#text", EVIL)
    page.click("#ask button")
    page.wait_for_selector(".answer")
    for part in ("#feedback", "#story", "#tiles", "#answer"):
        assert EVIL in page.inner_text(part)
    assert page.locator("img, main script").count() == 0
    assert page.title().startswith("v1.1.0")
    assert watched.said == []
    watched.close()


def test_the_policy_lets_nothing_in(browser: Any, house: tuple[Serving, str]) -> None:
    _, url = house
    response = httpx.get(f"{url}/console", trust_env=False)
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert (response.text, policy) == assemble()
    assert len(response.content) < 200_000
    watched = opened(browser, url)
    page = watched.page
    markup = "() => { try { document.body.innerHTML = '<b>x</b>'; return 'set' } catch (e) { return e.name } }"
    assert page.evaluate(markup) == "TypeError"
    inject = """() => new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective), {once: true});
        const image = document.createElement('img'); image.src = '/other.png'; document.body.append(image);
        setTimeout(() => done('nothing'), 2000) })"""
    assert page.evaluate(inject) == "img-src"
    elsewhere = "() => fetch('http://127.0.0.1:1/').then(() => 'sent', error => error.name)"
    assert page.evaluate(elsewhere) == "TypeError"
    watched.close()


def test_it_loads_in_under_a_second(browser: Any, house: tuple[Serving, str]) -> None:
    _, url = house
    watched = opened(browser, url)
    took, asked = watched.page.evaluate(
        """() => {
            const [page] = performance.getEntriesByType('navigation');
            const first = {};  // the page goes on to ask: only what it needed at first counts
            for (const part of performance.getEntriesByType('resource')) first[part.name] ??= part.responseEnd;
            return [Math.max(page.loadEventEnd, ...Object.values(first)), Object.keys(first)];
        }"""
    )
    assert any("/status" in name for name in asked), asked
    assert 0 < took < 1_000
    watched.close()


def test_by_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as (made, url):
        watched = opened(browser, url)
        page = watched.page
        focused = "() => document.activeElement.id || document.activeElement.className"
        seen = []
        for _ in range(5):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(focused))
        assert seen == ["skip", "do-rollback", "do-pin", "do-pause", "do-train"]
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "what is focused is seen"
        for _ in range(2):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#do-pin:text-is('Unpin')")
        assert made.follower.state.pinned
        assert page.evaluate(focused) == "do-pin", "the focus stays"
        page.keyboard.press("Enter")
        page.wait_for_selector("#do-pin:text-is('Pin')")
        page.focus("#do-rollback")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog:not([open])", state="attached")
        assert page.evaluate(focused) == "do-rollback"
        page.focus("#text")
        page.keyboard.type("where is it")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".answer")
        held = "document.activeElement.textContent"
        page.focus("#versions tr[data-key='v0.0.0'] .name button")
        made.promote("third", "refund", "delivery", EVIL)
        made.follower.step()
        page.wait_for_selector("#versions tr[data-key='v2.2.0']")
        assert page.evaluate(held) == "v0.0.0", "a new version takes the focus from no other"
        assert watched.said == []
        watched.close()


def test_a_rollback_is_one_message_with_its_reason_and_what_is_refused_is_told(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as (made, url):
        watched = opened(browser, url)
        page = watched.page
        page.click("#versions button:has-text('Roll back to it')")
        assert page.input_value("#to") == "v0.0.0"
        page.select_option("#to", "previous")
        page.click("#rollback-yes")
        page.wait_for_selector("#said:has-text('no version before')")
        assert made.follower.state.version == "v1.1.0"
        watched.close()


def test_with_a_token_it_asks_for_it_and_keeps_it_in_the_tab(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path, token="sesame") as (made, url):
        watched = Watched(browser, viewport=DESKTOP)
        page = watched.page
        page.goto(f"{url}/console")
        page.wait_for_selector("#said:text-is('This server needs a token.')")
        assert page.evaluate("document.activeElement.id") == "token"
        assert page.locator("#versions table").count() == 0
        assert page.locator(".top button:disabled").count() == 4
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#said.bad:text-is('This token was not accepted.')")
        assert page.evaluate("document.activeElement.id") == "token"
        page.fill("#token", "sesame\u200b")  # as it may come from a copy: no header can carry it
        page.keyboard.press("Enter")
        page.wait_for_selector("#said:has-text('Type it again')")
        assert page.is_visible("#token-form")
        page.reload()
        page.wait_for_selector("#token-form:visible")
        page.fill("#token", "sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector("#versions table")
        assert not page.is_visible("#token-form")
        assert not page.is_visible("#docs-link"), "it could not send the token"
        page.click("#do-pause")
        page.wait_for_selector("#do-pause:text-is('Resume')")
        assert made.follower.state.paused
        page.reload()
        page.wait_for_selector("#versions table")
        assert not page.is_visible("#token-form")
        assert "sesame" not in page.content()
        assert all("sesame" not in request for request in watched.asked)
        watched.close()


def test_it_says_that_the_server_is_away_and_goes_on(browser: Any, tmp_path: Path) -> None:
    with Serving(tmp_path) as made:
        made.genesis("yes")
        with running(made.app) as url:
            watched = Watched(browser, viewport=DESKTOP)
            watched.page.goto(f"{url}/console")
            watched.page.wait_for_selector("#versions table")
        watched.page.wait_for_selector("#said:has-text('cannot be reached')")
        assert watched.page.locator(".top button:disabled").count() == 4
        with running(made.app, port=int(url.rpartition(":")[2])):
            watched.page.wait_for_selector("#said:empty", state="attached")
        watched.close()


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def inks(page: Any, where: str, but: str) -> list[list[str]]:
    """Each text that is seen, its colour, and that of the ground below it."""
    pairs: list[list[str]] = page.evaluate(
        """([where, but]) => [...document.querySelectorAll(where)]
          .filter(at => [...at.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && at.getClientRects().length)
          .filter(at => !at.closest(but))
          .map(at => { const ink = getComputedStyle(at).color; let up = at;
            while (up && getComputedStyle(up).backgroundColor === 'rgba(0, 0, 0, 0)') up = up.parentElement;
            return [at.textContent.slice(0, 40), ink, getComputedStyle(up || document.body).backgroundColor] })""",
        [where, but],
    )
    return pairs


def weak(pairs: list[list[str]]) -> list[list[str]]:
    """Those that stand out from their ground by less than 4.5 to 1."""
    found = []
    for text, ink, ground in pairs:
        one, other = sorted((luminance(ink), luminance(ground)))
        if (other + 0.05) / (one + 0.05) < 4.5:
            found.append([text, ink, ground])
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(browser: Any, house: tuple[Serving, str], scheme: str) -> None:
    _, url = house
    watched = opened(browser, url, color_scheme=scheme)
    watched.page.fill("#text", "where is it")
    watched.page.click("#ask button")
    watched.page.wait_for_selector(".answer")
    pairs = inks(watched.page, "body *", "svg, datalist, .skip, style, script, title, dialog, :disabled")
    assert len(pairs) > 60
    assert weak(pairs) == []
    watched.close()


def test_a_version_whose_files_are_gone_is_no_choice(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as (made, url):
        assert dossier.read(made.registry.get_head(made.follower.state.start_head)).kind == "head"
        made.registry.delete_head(made.follower.state.history[0][1].start_head)
        watched = opened(browser, url)
        assert "files gone" in watched.page.inner_text("#versions")
        assert watched.page.locator("#versions button:has-text('Roll back to it')").count() == 0
        watched.close()


def test_feedback_is_found_by_an_id(browser: Any, house: tuple[Serving, str]) -> None:
    _, url = house
    watched = opened(browser, url)
    page = watched.page
    wanted = said(url)[3]["prediction_id"]
    page.fill("#find-id", wanted)
    page.wait_for_selector("#feedback tbody:not(:has(tr:nth-child(2)))")
    assert page.locator("#feedback tbody tr").count() == 1
    assert wanted in page.inner_text("#feedback tbody")
    page.fill("#find-id", "nobody-has-this")
    page.wait_for_selector("#feedback:has-text('has this id')")
    page.fill("#find-id", "")
    page.wait_for_selector("#feedback tbody tr:nth-child(2)")
    assert watched.said == []
    watched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_open_dialog_fits_a_narrow_phone_and_can_be_read(
    browser: Any, house: tuple[Serving, str], scheme: str
) -> None:
    _, url = house
    watched = opened(browser, url, viewport={"width": 320, "height": 640}, color_scheme=scheme)
    page = watched.page
    page.click("#do-rollback")
    page.wait_for_selector("dialog[open]")
    box = page.locator("dialog[open]").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 640
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    inside = "dialog = document.querySelector('dialog'), [dialog.scrollWidth, dialog.clientWidth]"
    wide, room = page.evaluate(inside)
    assert wide <= room, "nothing in it is cut off"
    pairs = inks(page, "dialog[open] *", "svg, :disabled, option")
    assert len(pairs) >= 6
    assert weak(pairs) == []
    watched.close()


def test_a_rollback_and_a_correction_by_keys(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as (made, url):
        watched = opened(browser, url)
        page = watched.page
        focused = "document.activeElement.id"
        before = len(said(url))
        page.focus("#text")
        page.keyboard.type("where is it")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#right")
        page.focus("#right")
        page.keyboard.type("delivery")
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == "correct"
        page.keyboard.press("Enter")
        page.wait_for_selector("#steps li")
        wait_for("the correction", lambda: len(said(url)) > before)
        assert said(url)[0]["said"] == "delivery"
        left = made.promote("third", "refund", "delivery", EVIL)
        made.follower.step()
        page.wait_for_selector("#force strong:text-is('v2.2.0')")
        page.focus("#do-rollback")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        assert page.evaluate(focused) == "reason"
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("ArrowDown")
        assert page.input_value("#to") == "v1.1.0"
        page.keyboard.press("Tab")
        page.keyboard.type("wrong on parcels")
        page.keyboard.press("Enter")
        assert page.evaluate(focused) == "rollback-yes", "Enter in a field commands nothing"
        assert made.follower.state.version == "v2.2.0"
        page.keyboard.press("Enter")
        page.wait_for_selector("#said.good:has-text('Accepted: rollback')")
        made.follower.step()
        assert made.follower.state.base != left
        assert left in made.follower.state.denied
        assert watched.said == []
        watched.close()


def said(url: str) -> list[dict[str, Any]]:
    """The newest statements first."""
    found: list[dict[str, Any]] = httpx.get(f"{url}/feedback", trust_env=False).json()["statements"]
    return found
