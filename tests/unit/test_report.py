"""The report says what was gained and what was refused, and never trusts the texts it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stream_ft.wiring.chart import Mark, Point, buckets, curve_svg, histogram_svg, rolling, spread, ticks
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.report import Report, render, write_report
from stream_ft.wiring.report_words import MOST_REASONS
from stream_ft.wiring.standing import before_headline, headline
from stream_ft.wiring.summary import Told

VOID = {"meta", "link", "br", "hr", "img"}


class Balanced(HTMLParser):
    """Collects tags left open, and every address that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith("data:"):
                self.fetched.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def told(event: int, kind: str, text: str, **more: Any) -> Told:
    return Told(event=event, happening=Happening(kind=kind, text=text, time=0.0, **more))


def summary(**over: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "events": 400,
        "classes": 4,
        "prequential_accuracy": 0.85,
        "prequential_by_phase": [
            {"phase": "1", "events": 200, "accuracy": 0.9},
            {"phase": "2", "events": 200, "accuracy": 0.8},
        ],
        "frozen_accuracy": 0.70,
        "online_softmax_accuracy": 0.80,
        "final_test_accuracy": 0.95,
        "frozen_final_test_accuracy": 0.60,
        "online_softmax_final_test_accuracy": 0.81,
        "final_test_by_phase": [],
        "promotions": 1,
        "refusals": 1,
        "rollbacks": 0,
        "drift_alarms": [{"event": 210, "kind": "adwin", "direction": "worse", "size": 0.2}],
        "feedback_to_live_s": {"p50": 8.2, "p99": 20.0},
        "dropped_requests": 0,
        "cpu_ms_per_event": 21.4,
        "peak_rss_mb": 1234.0,
        "versions": [
            {
                "name": "v0.2.0",
                "kind": "lora",
                "verdict": "accepted",
                "reason": "v0.1.0 -> v0.2.0",
                "numbers": {
                    "n": 210,
                    "champion": 0.8,
                    "candidate": 0.9,
                    "lower_bound": 0.05,
                    "reason": "It is better.",
                },
            },
            {
                "name": "",
                "kind": "head",
                "verdict": "refused",
                "reason": "The lower bound is too low.",
                "numbers": {"n": 210, "champion": 0.9, "candidate": 0.7, "lower_bound": -0.25},
            },
        ],
    }
    return base | over


def report(**over: Any) -> Report:
    values: dict[str, Any] = {
        "title": "A run",
        "summary": summary(),
        "live": [True] * 200 + [False] * 200,
        "frozen": [True] * 400,
        "story": [
            told(120, "promotion", "better"),
            told(300, "refusal", "The lower bound is too low.", round_kind="head"),
            told(350, "rollback", "by hand"),
        ],
        "phases": [(0, "1"), (200, "2")],
        "latency_s": [0.004] * 99 + [0.3],
    }
    return Report(**(values | over))


def parse(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    return parser


def plain(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path):
    write_report(tmp_path / "report.html", report())
    parser = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert parser.open == []
    assert parser.fetched == []
    assert len(parser.ids) == len(set(parser.ids))


def test_words_come_before_pictures():
    page = render(report())
    gained, refused, picture = (page.index(t) for t in ("What was gained", "What was refused", "<svg"))
    assert gained < refused < picture


def test_gain_is_told_in_points():
    text = plain(render(report()))
    assert "learning on was worth 15.0 points over the stream" in text
    assert "learning on was worth 35.0 points there" in text
    assert "1 new version went live, 1 of them with a newly trained encoder" in text


def test_loss_is_told_too():
    text = plain(render(report(summary=summary(frozen_accuracy=0.9))))
    assert "learning on cost 5.0 points over the stream" in text
    text = plain(render(report(summary=summary(frozen_accuracy=0.85))))
    assert "learning on made no difference over the stream" in text


def test_every_refusal_has_its_reason():
    text = plain(render(report()))
    assert "1 candidate did not go live" in text
    assert "The lower bound is too low." in text
    assert "No candidate was refused." in plain(render(report(summary=summary(refusals=0, versions=[]))))


def test_a_reason_given_twice_is_told_once():
    row = summary()["versions"][1]
    text = plain(render(report(summary=summary(versions=[row, row], refusals=2))))
    assert "2 candidates did not go live" in text
    assert "Head round: The lower bound is too low. (2 times)" in text


def test_drift_and_rollback_are_told():
    text = plain(render(report()))
    assert "1 alarm that the live version's errors had risen, at event 210" in text.replace("&#x27;", "'")
    assert "Rolled back at event 350: by hand" in text


def test_gate_numbers_are_in_the_table():
    text = plain(render(report()))
    assert "v0.2.0 accepted lora" in text
    assert "It is better. 80.0% 90.0% +5.0% 210" in text
    assert "The lower bound is too low. 90.0% 70.0% -25.0% 210" in text


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "$title ${json} $$", "</title></svg>"]
)
def test_texts_are_escaped(evil: str):
    versions = [
        {"name": evil, "kind": evil, "verdict": "refused", "reason": evil, "numbers": {"reason": evil, "n": evil}}
    ]
    page = render(
        report(
            title=evil,
            summary=summary(versions=versions),
            story=[told(1, "drift", evil), told(2, "promotion", evil, version=evil), told(3, evil, evil)],
            phases=[(0, evil), (9, evil)],
        )
    )
    parser = parse(page)
    assert parser.open == []
    assert parser.fetched == []
    if "<" in evil:
        assert evil not in page


def test_an_empty_run_is_a_page():
    page = render(Report(title="Nothing", summary={"events": 0, "prequential_accuracy": None}, live=[]))
    assert parse(page).open == []
    assert "there were no events" in page
    assert "No candidate was judged." in page


def test_headline_prefers_the_final_test_of_all_three():
    assert headline(summary()) == (
        "On this data: frozen 60.0%, plain online softmax 81.0%, stream_ft 95.0%, at 21 ms per event."
    )


def test_headline_never_mixes_final_test_and_stream():
    line = headline(summary(frozen_final_test_accuracy=None, cpu_ms_per_event=None))
    assert line == "On this data: frozen 70.0%, plain online softmax 80.0%, stream_ft 85.0%."
    assert "frozen unknown" in headline(summary(frozen_final_test_accuracy=None, frozen_accuracy=None))


def test_a_long_table_says_what_it_leaves_out():
    rows = [told(i, "note", f"note {i}") for i in range(900)]
    page = render(report(story=rows))
    assert "The newest 400 of 900." in page
    assert "<summary>Show all 400</summary>" in page
    assert "note 899" in page
    assert "note 499<" not in page


def test_the_headline_comes_after_the_stream_and_what_was_lost():
    lost = summary(prequential_accuracy=0.79, online_softmax_accuracy=0.82, final_test_accuracy=0.5)
    assert before_headline(lost) == [
        "Over the stream, each message predicted before it was learned: "
        "frozen 70.0%, plain online softmax 82.0%, stream_ft 79.0%.",
        "stream_ft loses to the plain online softmax by 3.0 points over the stream.",
        "stream_ft loses to the plain online softmax by 31.0 points and to the frozen copy by 10.0 points "
        "on the final test.",
    ]
    assert len(before_headline(summary())) == 1, "nothing was lost"
    no_final = summary(frozen_final_test_accuracy=None, online_softmax_accuracy=0.9)
    assert before_headline(no_final) == ["stream_ft loses to the plain online softmax by 5.0 points over the stream."]
    assert before_headline({"events": 0}) == []


def test_a_loss_to_the_online_softmax_is_in_the_first_paragraph_and_on_its_card():
    page = render(report(summary=summary(prequential_accuracy=0.79, online_softmax_accuracy=0.82)))
    first = plain(page[page.index("What was gained") : page.index("</p>", page.index("What was gained"))])
    assert "A plain online softmax on the pretrained embeddings reaches 82.0%" in first
    assert "stream_ft loses to it by 3.0 points over the stream" in first
    card = page[page.index('<div class="standing">') : page.index('<dl class="figures">')]
    assert "82.0%" in card
    assert "stream_ft loses to the plain online softmax by 3.0 points over the stream." in card
    assert "14.0 points ahead of the plain online softmax, 35.0 points ahead of the frozen copy" in card
    assert 'class="softmax"' not in page
    assert 'class="softmax"' in render(report(softmax=[True] * 400))


def test_when_the_frozen_copy_was_taken_is_told_as_it_was():
    assert "frozen after its first 1,000 labels" in plain(render(report()))
    page = plain(render(report(summary=summary(frozen_after=267))))
    assert "frozen after the first 267 messages" in page
    assert "frozen copy, after the first 267 messages" in page
    assert "1,000 labels" not in page


def test_what_the_demo_did_is_told_and_numbered_on_the_axis():
    names = {"1": "as it was", "2": "two desks exchanged"}
    page = render(report(said=[(0, "Customers write."), (310, "An <import> breaks.")], phase_names=names))
    text = plain(page)
    assert "What the demo did Event 0. Customers write. Event 310. An &lt;import&gt; breaks." in text
    assert "<title>Event 310: An &lt;import&gt; breaks.</title><circle" in page
    assert "phase 2: two desks exchanged" in text
    assert "Phase 2: two desks exchanged." in text
    assert "Over the stream 2: two desks exchanged 200 80.0%" in text
    assert "What the demo did" not in render(report())


def test_phases_have_words_only_where_there_is_room_for_all():
    svg = curve_svg(
        [], [], 100, phases=[(0, "1"), (90, "2")], phase_names={"1": "one", "2": "two " * 9}, width=380, ident="x"
    )
    assert ">phase 1<" in svg
    assert ">phase 2<" in svg


def test_numbers_on_the_axis_do_not_hide_each_other():
    assert spread([10, 12, 300], 19, 0, 300) == [10, 29, 300]
    assert spread([0, 299, 300], 19, 0, 300) == [0, 281, 300]
    assert spread([], 19, 0, 300) == []


def test_refusals_have_their_event_and_round():
    happened = [
        told(120, "promotion", "better"),
        told(300, "refusal", "The lower bound is too low.", round_kind="head"),
    ]
    text = plain(render(report(story=happened)))
    assert "Event 300, head round: The lower bound is too low." in text
    assert "refused head 300 The lower bound is too low." in text
    assert "300 refusal head The lower bound is too low." in text


def test_of_many_refusals_those_furthest_from_passing_are_told():
    row = summary()["versions"][1]
    many = [row | {"reason": f"reason {i}.", "numbers": {"lower_bound": -i / 100}} for i in (9, 1, 8, 2, 7, 3, 6, 5)]
    page = render(report(summary=summary(versions=many, refusals=8)))
    told_of = page[page.index("What was refused") : page.index("</ul>")]
    assert re.findall(r"reason \d", told_of) == [f"reason {i}" for i in (9, 8, 7, 6)]
    assert f"The {MOST_REASONS} that were furthest from passing" in told_of


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"lower_bound": 0.49, "worst_without_difference": -0.5},
        {"lower_bound": 0.5, "class_floor": 0.2, "worst_class_drop": 0.7},
    ],
)
def test_what_the_gate_found_worst_counts_as_how_far_it_was_from_passing(numbers: dict[str, Any]):
    row = summary()["versions"][1]
    many = [
        row | {"reason": f"reason {i}.", "numbers": {"lower_bound": -i / 100, "class_floor": 0.2}} for i in range(1, 8)
    ]
    page = render(report(summary=summary(versions=[row | {"reason": "the worst.", "numbers": numbers}, *many])))
    assert "the worst." in page[page.index("What was refused") : page.index("</ul>")]


def test_the_beginning_of_a_round_is_not_told_again_after_its_verdict():
    page = render(report(story=[told(10, "round", "A head round began."), told(11, "note", "A note.")]))
    assert "A head round began." not in page
    assert "A note." in page


def test_long_lists_are_folded_newest_first():
    rows = [
        {"name": f"v0.{i}.0", "kind": "head", "verdict": "accepted", "reason": f"why {i}.", "numbers": {}}
        for i in range(30)
    ]
    page = render(report(summary=summary(versions=rows)))
    folded = page.index("<summary>Show the 22 before them</summary>")
    assert page.index("why 29.") < page.index("why 22.") < folded < page.index("why 21.") < page.index("why 0.")


def test_the_last_number_of_the_axis_is_not_cut():
    for width in (380, 1000):
        svg = curve_svg([], [], 10_003, phases=[], width=width, ident="x")
        place, anchor = re.findall(r'class="tick" x="([\d.]+)" [^>]*text-anchor="(\w+)">10,000<', svg)[0]
        assert float(place) + (0 if anchor == "end" else 7.2 * len("10,000") / 2) <= width


def test_rolling_is_the_mean_of_the_last_events():
    points = rolling([True, False, True, True], [False] * 4, window=2)
    assert [p.live for p in points] == [1.0, 0.5, 0.5, 1.0]
    assert [p.frozen for p in points] == [0.0] * 4
    assert rolling([]) == []


def test_rolling_is_thinned_and_keeps_the_last_event():
    points = rolling([True] * 10_007)
    assert len(points) <= 401
    assert points[-1].event == 10_007


@pytest.mark.parametrize(("top", "most"), [(1, 8), (7, 4), (3_400, 8), (3_400, 4), (999_999, 8), (10, 8)])
def test_ticks_are_few_and_within_the_axis(top: int, most: int):
    found = ticks(top, most)
    assert found[0] == 0
    assert found[-1] <= top
    assert 2 <= len(found) <= most + 1
    assert len({b - a for a, b in pairwise(found)}) <= 1


def test_curve_stays_inside_its_picture():
    svg = curve_svg(
        [Point(event=0, live=0.0), Point(event=100, live=1.0)],
        [Mark(event=-5, kind="drift", text="a"), Mark(event=1_000, kind="refusal", text="b")],
        100,
        phases=[],
        width=380,
        ident="x",
    )
    numbers = [float(n) for d in re.findall(r'class="live" d="([^"]*)"', svg) for n in re.findall(r"[\d.]+", d)]
    assert numbers
    assert all(0 <= n <= 380 for n in numbers)
    assert "Event 1,000: b" in svg


def test_screen_readers_get_the_curve_in_words():
    svg = curve_svg(
        rolling([True] * 50 + [False] * 50, window=50),
        [Mark(event=3, kind="rollback", text="x")],
        100,
        phases=[],
        width=1000,
        ident="x",
    )
    assert "lowest, 0%, at event 100" in svg
    assert "rolled back 1 times" in svg


def test_latency_buckets_leave_out_empty_ends():
    assert buckets([0.003, 0.0041, 0.012]) == [("2-5 ms", 2), ("5-10 ms", 0), ("10-20 ms", 1)]
    assert buckets([0.0005, 9.0])[0] == ("up to 1 ms", 1)
    assert buckets([9.0]) == [("over 5,000 ms", 1)]
    assert buckets([]) == []
    assert histogram_svg([], ident="x") == ""
