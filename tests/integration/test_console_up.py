"""The console before a real ``stream-ft up``: its buttons move the answers, and a correction is followed to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
from browser import CHROMIUM, Watched, chromium
from house import House, wait_for

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium (apt install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("up")
    base = tiny.bert(folder / "bert")
    settings = {
        "MODEL__BASE": str(base.path),
        "MODEL__MAX_TOKENS": "32",
        "LEARN__FROZEN_AFTER": "40",
        "LOG__JSON_LINES": "true",
        # To a model that was never trained all texts are alike, so that the next label contradicts the one before.
        "REPLAY__CONTRADICTIONS": "1000",
    }
    with House(folder, **settings) as made:
        made.start("up")
        made.ready()
        made.ready("learn")
        yield made
        assert made.stop("up") == 143


def answered(house: House) -> str:
    """The version that an answer names."""
    answer = house.predict()
    return "" if answer is None else str(answer["version"])


def test_a_message_is_corrected_learned_and_a_click_rolls_it_back(house: House, browser: Any) -> None:
    url = f"http://127.0.0.1:{house.port}"
    watched = Watched(browser, viewport={"width": 1280, "height": 900})
    page = watched.page
    page.goto(f"{url}/console")
    page.wait_for_selector("#versions table")
    house.send(60)
    wait_for("a first version", lambda: house.learned() > 0)
    house.send(60)
    wait_for("another", lambda: house.learned() >= 90)
    house.send(40)
    page.wait_for_selector("#chart path.frozen[d^=M]", state="attached")
    assert "labelled events" in page.inner_text("#tiles")

    # A message, its correction, and the version that has learned it.
    page.click("#do-pin")  # so that the version of the answer is the one that is shown
    page.wait_for_selector("#do-pin:text-is('Unpin')")
    page.fill("#text", "parcel hello late")
    page.click("#ask button")
    page.wait_for_selector("#correct")
    page.fill("#right", "refund")
    page.click("#correct")
    page.wait_for_selector("#steps li:has-text('trains the next version')")
    page.click("#do-pin")
    page.wait_for_selector("#do-pin:text-is('Pin')")
    house.send(30)
    page.wait_for_selector("#steps li:has-text('Asked again')", timeout=120_000)
    # Back, by a click: what is answered changes, and the log says who and why.
    page.click("#do-pause")
    page.wait_for_selector("#do-pause:text-is('Resume')")
    before = answered(house)
    page.click("#do-rollback")
    page.fill("#reason", "wrong on parcels")
    page.click("#rollback-yes")
    page.wait_for_selector("#said.good:has-text('Accepted: rollback')")
    wait_for("the answers' version", lambda: answered(house) != before)
    after = answered(house)
    page.wait_for_selector(f"#force strong:text-is('{after}')")
    page.wait_for_selector("#story:has-text('by operator/operator: wrong on parcels')")
    rolled = [row for row in house.http.get("/versions").json()["versions"] if row["version"] == after]
    assert rolled[0]["active"]
    assert rolled[0]["start_head"] in {row["start_head"] for row in house.http.get("/versions").json()["versions"][:-1]}

    # A round, commanded.
    page.click("#do-pause")
    page.wait_for_selector("#do-pause:text-is('Pause')")
    page.click("#do-train")
    page.wait_for_selector("#said:has-text('Accepted: train now')")
    page.wait_for_selector("#story:has-text('train_now by operator/operator')")

    assert watched.said == []
    assert watched.outside(url) == []
    watched.close()

    # One line for each decision, with its numbers, and no text of anybody.
    log = (house.folder / "up.log").read_text("utf-8")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    decisions = {line["decision"]: line for line in lines if "decision" in line}
    assert {"round", "promotion", "rollback", "swap", "note"} <= set(decisions)
    assert {"version", "parent", "sha256", "n", "champion", "candidate", "lower_bound"} <= set(decisions["promotion"])
    assert decisions["swap"]["version"] == house.version()
    assert "parcel hello late" not in log
    assert "money back for order" not in log


def test_a_new_label_waits_until_the_operator_allows_it(house: House, browser: Any) -> None:
    house.send(30)
    wait_for("labels that are known", lambda: house.learned() > 0)
    watched = Watched(browser, viewport={"width": 390, "height": 844})
    page = watched.page
    page.goto(f"http://127.0.0.1:{house.port}/console")
    page.wait_for_selector("#versions table")
    page.fill("#text", "a thing nobody named before")
    page.click("#ask button")
    page.fill("#right", "novelty")
    page.click("#correct")
    page.click("#allow")
    page.wait_for_selector("#steps li:has-text('trains the next version')")
    page.wait_for_selector("#story:has-text('label_add by operator/operator')")
    assert watched.said == []
    watched.close()
