"""The report in a real browser, from ``file://``: no request, no console error, no sideways scrolling."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_ft.wiring.happening import Happening
from stream_ft.wiring.report import Report, write_report
from stream_ft.wiring.summary import Told

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
if not CHROMIUM.exists():
    pytest.skip("there is no /usr/bin/chromium (apt install chromium)", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, sample())
    return path


def sample() -> Report:
    """A run with everything in it, and texts that are long."""
    random_ = random.Random(0)
    events = 3_400

    def chance(event: int) -> float:
        if event < 300:
            return event / 330
        return 0.93 if event < 1_530 or event > 2_300 else 0.7 + 0.23 * (event - 1_530) / 770

    live = [random_.random() < chance(i) for i in range(events)]
    frozen = [random_.random() < (chance(i) if i < 1_000 else 0.9 if i < 1_530 else 0.66) for i in range(events)]
    story = []
    versions = []
    for number, event in enumerate(range(300, events, 160), 1):
        refused = number in (9, 16)
        numbers = {
            "n": 214 + number,
            "champion": 0.9 - number / 400,
            "candidate": 0.91,
            "lower_bound": -0.004,
            "reason": "Candidate 91.0 % against 89.9 %: the lower bound of the difference, -0.4 points, exceeds -2.0.",
        }
        kind = "lora" if number in (4, 12) else "head"
        text = "head: the candidate may be 3.1 points worse (95 % lower bound); at most 2.0 is allowed."
        name = "" if refused else f"v{4 if number >= 4 else 0}.{number + 1}.0"
        story.append(
            Told(
                event=event,
                happening=Happening(
                    kind="refusal" if refused else "promotion",
                    text=text if refused else f"v0.{number}.0 -> {name}",
                    time=0.0,
                    version=name,
                    round_kind=kind,
                ),
            )
        )
        versions.append(
            {
                "name": name,
                "sha256": "ab" * 32,
                "kind": kind,
                "verdict": "refused" if refused else "accepted",
                "reason": text if refused else f"v0.{number}.0 -> {name}",
                "numbers": numbers if not refused else numbers | {"reason": text, "lower_bound": -0.031},
            }
        )
    story.append(Told(event=1_640, happening=Happening(kind="drift", text="Errors rose from 7 % to 25 %.", time=0.0)))
    story.append(
        Told(
            event=3_000,
            happening=Happening(kind="rollback", text="v4.19.0 -> v4.18.0: an import looked wrong", time=0.0),
        )
    )
    summary = {
        "events": events,
        "classes": 16,
        "prequential_accuracy": sum(live) / events,
        "prequential_by_phase": [
            {"phase": "1", "events": 1_530, "accuracy": 0.84},
            {"phase": "2", "events": 1_870, "accuracy": 0.86},
        ],
        "frozen_accuracy": sum(frozen) / events,
        "online_softmax_accuracy": 0.88,
        "final_test_accuracy": 0.947,
        "frozen_final_test_accuracy": 0.653,
        "online_softmax_final_test_accuracy": 0.871,
        "promotions": 18,
        "refusals": 2,
        "rollbacks": 1,
        "drift_alarms": [{"event": 1_640, "kind": "adwin", "direction": "worse", "size": 0.18}],
        "feedback_to_live_s": {"p50": 8.0, "p99": 21.5},
        "dropped_requests": 0,
        "cpu_ms_per_event": 31.0,
        "peak_rss_mb": 1_650.0,
        "versions": versions,
    }
    return Report(
        title="Messages to a shop: the demo",
        summary=summary,
        live=live,
        frozen=frozen,
        softmax=[random_.random() < min(0.85, i / 400) for i in range(events)],
        story=sorted(story, key=lambda told: told.event),
        phases=[(0, "1"), (1_530, "2")],
        phase_names={"1": "fifteen intents", "2": "one intent more, and two desks have exchanged their work"},
        said=[
            (0, "Customers begin to write."),
            (2_700, "A broken import publishes 700 labels: two messages a line, labels shuffled."),
            (2_720, "The operator rolls back to v4.18.0 and puts the import in quarantine, with one message."),
            (3_400, "The final test: 600 messages that never came before."),
        ],
        latency_s=[random_.lognormvariate(-4.6, 0.6) for _ in range(events)],
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_report_opens_from_a_file(browser: sync_api.Browser, page_file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = "narrow" if width <= 640 else "wide"
    assert page.locator(f".{shown} svg").is_visible()
    assert page.locator("svg.curve:visible").count() == 1
    size = page.evaluate(
        """name => { const text = document.querySelector('.' + name + ' svg text');
                     return text.getBoundingClientRect().height }""",
        shown,
    )
    assert size >= 9, "the picture's text is too small to read"
    context.close()


def test_a_narrow_screen_hides_nothing_to_the_side_and_is_not_endless(
    browser: sync_api.Browser, page_file: Path
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollHeight") < 7_500
    page.evaluate("document.querySelectorAll('details:not(.all)').forEach(part => part.open = true)")
    cut = """[...document.querySelectorAll('.scroll, .scroll td, .scroll caption, .standing, .said')]
             .filter(part => part.scrollWidth > part.clientWidth && part.clientWidth > 0).length"""
    assert page.evaluate(cut) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_every_text_of_the_picture_is_inside_it(browser: sync_api.Browser, page_file: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    out = page.evaluate(
        """() => { const svg = [...document.querySelectorAll('svg.curve')].find(s => s.getBoundingClientRect().width);
                   const box = svg.getBoundingClientRect();
                   return [...svg.querySelectorAll('text, circle')].map(t => [t.textContent, t.getBoundingClientRect()])
                     .filter(([, r]) => r.left < box.left || r.right > box.right).map(([text]) => text) }"""
    )
    assert out == []
    context.close()


def rgb(colour: str) -> list[float]:
    return [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("selector", "least"),
    [
        ("h1", 7.0),
        ("figcaption", 4.5),
        ("th", 4.5),
        (".verdict-accepted", 4.5),
        (".verdict-refused", 4.5),
        (".lost", 4.5),
    ],
)
def test_text_stands_out_from_its_ground(
    browser: sync_api.Browser, page_file: Path, scheme: str, selector: str, least: float
) -> None:
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(page_file.as_uri())
    ink, ground = page.evaluate(
        """selector => {
          let at = document.querySelector(selector); const ink = getComputedStyle(at).color;
          while (at && getComputedStyle(at).backgroundColor === 'rgba(0, 0, 0, 0)') at = at.parentElement;
          return [ink, getComputedStyle(at).backgroundColor] }""",
        selector,
    )
    one, other = sorted((luminance(ink), luminance(ground)))
    assert (other + 0.05) / (one + 0.05) >= least
    context.close()
