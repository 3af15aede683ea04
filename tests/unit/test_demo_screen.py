"""What the demo shows, plans and reports."""

from __future__ import annotations

import asyncio
import io
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from stream_ft.config import read_file
from stream_ft.connectors.files import Row
from stream_ft.demo import plan as plans
from stream_ft.demo.client import Dropped
from stream_ft.demo.outcome import Seen, report, story, summary
from stream_ft.demo.plan import Plan
from stream_ft.demo.play import rollback_target
from stream_ft.demo.run import interruptible, last_words, run
from stream_ft.demo.screen import News, Picture, digest, plain, render, sparkline, wrapped
from stream_ft.demo.system import System, settings_text
from stream_ft.errors import ConfigError
from stream_ft.wiring.happening import Happening
from stream_ft.wiring.report import render as render_report
from stream_ft.wiring.standing import headline


def shown(picture: Picture, width: int, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(render(picture, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 110])
def test_the_screen_fits_and_says_everything(width: int):
    picture = Picture(
        title="Messages",
        done=500,
        total=3_400,
        live=0.912,
        frozen=0.653,
        live_curve=[i / 300 for i in range(300)],
        frozen_curve=[0.5] * 300,
        version="v0.3.0",
        versions=4,
        sent=777,
        dropped=2,
        latency_ms=72.4,
        last_error="503 from /predict: the queue is full",
        news=[News(at=i, kind="promotion", text=f"happening {i} [bold]as typed[/bold]") for i in range(30)],
    )
    text = shown(picture, width)
    assert max(map(len, text.splitlines())) <= width
    for part in (
        "Right answers among the last 200 messages", "91.2%", "65.3%", "v0.3.0   3 versions so far",
        "777 sent, 2 dropped, median 72 ms", "503 from /predict: the queue is", "happening 29 [bold]",
    ):  # fmt: skip
        assert part in text
    assert "happening 3 " not in text


def test_what_a_dropped_request_met_is_not_told_while_none_was_dropped():
    assert "last dropped" not in shown(Picture(last_error="503"), 80)
    assert "(the last: 503)" in plain(Picture(last_error="503", dropped=1))
    assert "503" not in plain(Picture(last_error="503"))


@pytest.mark.parametrize(("versions", "said"), [(0, ""), (1, ""), (2, "1 version so far"), (3, "2 versions so far")])
def test_the_version_that_knows_nothing_is_not_counted(versions: int, said: str):
    text = shown(Picture(version="v0.1.0", versions=versions), 80)
    assert said in text
    assert ("so far" in text) == bool(said)


def promotion(number: int) -> News:
    text = f"Live: v0.{number}.0 -> v0.{number + 1}.0, by a head round: As good or better: +1.5 points on 200 examples."
    return News(at=number, kind="promotion", text=text)


STORY = [
    promotion(2),
    News(at=500, kind="drift", text="Drift: Errors rose from 7.4% to 30.0%."),
    promotion(3),
    News(at=900, kind="demo", text="A broken import publishes 700 labels: two messages a line, labels shuffled."),
    promotion(4),
    News(at=950, kind="refusal", text="Refused: A head round: " + "very long reason " * 20),
    promotion(5),
    News(at=960, kind="rollback", text="Rolled back: v0.5.0 -> v0.6.0: a broken import was found"),
    *[promotion(i) for i in range(6, 40)],
]


@pytest.mark.parametrize("end", range(1, len(STORY) + 1))
def test_a_small_terminal_cuts_nothing_off_and_shows_the_newest(end: int):
    picture = Picture(title="T", news=STORY[:end], dropped=1, last_error="long " * 40, next_round="Waiting " * 20)
    console = Console(file=io.StringIO(), width=80, height=24, color_system=None, force_terminal=True)
    lines = shown(picture, 80, 24).splitlines()
    assert len(lines) <= console.height
    assert max(map(len, lines)) <= 80
    assert sum("…" in line for line in lines if line.startswith(("│ learner", "│ last dropped"))) == 2
    top = next(index for index, line in enumerate(lines) if "What just happened" in line)
    newest = STORY[end - 1]
    assert lines[top + 1].split()[1] == f"{newest.at:,}"
    assert newest.text.removeprefix("Live: ")[:30] in lines[top + 1]


def test_the_story_does_not_scroll_away_under_routine_promotions():
    text = shown(Picture(news=STORY), 80, 24)
    assert "34 promotions, the last v0.39.0 -> v0.40.0" in text
    for part in ("Drift: Errors rose", "A broken import publishes", "Refused: A head round", "Rolled back: v0.5.0"):
        assert part in text
    assert "v0.6.0 -> v0.7.0" not in text


def test_many_verdicts_do_not_drive_out_what_the_demo_did():
    verdicts = [
        News(at=i, kind="refusal", text=f"Refused: reason {i} " + "and so on " * 20) for i in range(1_000, 1_030)
    ]
    text = shown(Picture(news=[*STORY, *verdicts]), 80, 24)
    for part in ("Drift: Errors rose", "A broken import publishes", "Rolled back: v0.5.0"):
        assert part in text
    for part in ("reason 1029", "reason 1028", "reason 1027"):
        assert part in text
    assert "reason 1010" not in text


def test_a_newly_trained_encoder_is_no_routine():
    news = [promotion(1), News(at=5, kind="promotion", text="Live: v0.2.0 -> v2.3.0, by a lora round: x"), promotion(2)]
    assert [row.text[:12] for row in digest(news)] == ["Live: v0.2.0", "Live: v0.2.0", "Live: v0.1.0"]
    assert digest(news)[1] == news[1]


def test_long_words_and_wide_letters_are_wrapped_by_their_columns():
    assert wrapped("one two three", 7, 9) == ["one two", "three"]
    assert wrapped("a" * 9, 4, 9) == ["aaaa", "aaaa", "a"]
    assert wrapped("one two three four", 8, 2) == ["one two", "three f…"]
    assert all(cell_len(line) <= 10 for line in wrapped("退货 " * 20 + "换" * 30, 10, 3))
    assert wrapped("", 10, 3) == [""]


def test_an_empty_screen_is_a_screen():
    assert "none yet" in shown(Picture(), 80)
    assert "none yet" in plain(Picture())


def test_sparkline_rises_with_the_values():
    assert sparkline([0.0, 1.0], 10) == "▁█"
    assert len(sparkline([0.5] * 1_000, 40)) == 40
    assert sparkline([], 10) == ""
    assert sparkline([2.0, -1.0], 10) == "█▁"


def test_the_shop_plan():
    plan = plans.of_shop()
    assert plan.phases() == [(0, "1"), (1_530, "2")]
    assert not {row.text for row in plan.test} & {row.text for row in plan.stream}
    assert {row.phase for row in plan.more} == {"2"}


def test_a_file_of_ones_own_is_split_and_told_of(tmp_path: Path):
    path = tmp_path / "mine.csv"
    lines = [f"message number {i},{'even' if i % 2 == 0 else 'odd'}" for i in range(1_200)]
    path.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    plan = plans.of_file(path)
    assert "'text' and 'label'" in plan.told
    assert len(plan.test) == 200
    assert len(plan.stream) == 750
    parts = [{row.text for row in part} for part in (plan.test, plan.stream, plan.more)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 1_200
    assert plan.freeze_after < len(plan.stream) / 2
    assert [int(row.text.split()[-1]) for row in plan.stream] == sorted(
        int(row.text.split()[-1]) for row in plan.stream
    )


def test_a_file_sorted_by_label_is_shuffled(tmp_path: Path):
    path = tmp_path / "mine.csv"
    lines = [f"message number {i},{'first' if i < 500 else 'second'}" for i in range(1_000)]
    path.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    plan = plans.of_file(path)
    assert "shuffled" in plan.told
    assert {row.label for row in plan.stream[:50]} == {"first", "second"}


@pytest.mark.parametrize(("rows", "labels"), [(100, 2), (1_000, 1)])
def test_a_file_that_is_too_small_is_told_so(tmp_path: Path, rows: int, labels: int):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "\n".join(f"message {i},l{i % labels}" for i in range(rows)), encoding="utf-8")
    with pytest.raises(ConfigError):
        plans.of_file(path)


def release(version: str, base: str, head: str) -> dict[str, Any]:
    return {"version": version, "base": base, "start_head": head}


def test_rollback_goes_to_a_good_version_on_the_same_base():
    versions = [release("v0.1.0", "a", "1"), release("v2.2.0", "b", "2"), release("v2.3.0", "b", "3")]
    good = [str(row["version"]) for row in versions]
    assert rollback_target(versions, good) == "v2.2.0"
    assert rollback_target([*versions, release("v2.4.0", "b", "4")], good) == "v2.3.0"
    assert rollback_target([*versions[:1], release("v2.2.0", "b", "2")], good) == "v0.1.0"
    assert rollback_target([], good) == "previous"
    assert rollback_target(versions[:1], good) == "previous"


def test_the_settings_of_the_demo_exist(tmp_path: Path):
    text = settings_text(tmp_path / 'a "b"', port=1, learn_port=2, model='C:\\"x"', min_evaluation=100, adapt_first=10)
    (tmp_path / "demo.toml").write_text(text, encoding="utf-8")
    found = read_file(tmp_path / "demo.toml")
    assert found == tomllib.loads(text)
    assert found["model"]["base"] == 'C:\\"x"'
    assert found["state_dir"] == str(tmp_path / 'a "b"')


def test_what_no_demo_wrote_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no demo wrote"):
        System(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def seen(**over: Any) -> tuple[Plan, Seen]:
    rows = [Row(text=f"m{i}", label="a" if i % 2 else "b", phase="1" if i < 50 else "2") for i in range(100)]
    plan = Plan(title="T", stream=rows, test=rows[:10], more=rows, imported=[], phase_names={"2": "all is new"})
    promotion = Happening(
        kind="promotion", text="better", time=30.5, version="v0.2.0", round_kind="head", cpu_s=2, steps=3
    )
    drift = Happening(kind="drift", text="worse", time=60, numbers={"kind": "adwin", "direction": "worse", "size": 0.3})
    values: dict[str, Any] = {
        "rows": rows,
        "outputs": [row.label for row in rows[:80]] + [""] * 20,
        "frozen": ["a"] * 100,
        "softmax": ["b"] * 100,
        "frozen_from": 40,
        "sent_at": [float(i) for i in range(100)],
        "happenings": [promotion, drift, Happening(kind="rollback", text="by hand", time=70)],
        "final": (["a"] * 10, ["b"] * 10, [row.label for row in rows[:10]]),
        "waits": [1.0, 2.0, 30.0],
        "latencies": [0.01] * 100,
        "dropped": [Dropped(path="/predict", why="ReadTimeout", at=1.0, seconds=2.0)],
        "sent": 300,
        "cpu_s": 5.0,
        "serve_cpu_s": 2.0,
        "peak_rss_mb": 900.0,
        "wall_s": 100.0,
    }
    return plan, Seen(**(values | over))


def test_summary_counts_a_dropped_answer_as_wrong():
    result = summary(*seen())
    assert result["prequential_accuracy"] == 0.8
    assert result["frozen_accuracy"] == 0.5
    assert result["final_test_accuracy"] == 0.5
    assert result["online_softmax_final_test_accuracy"] == 1.0
    assert result["cpu_ms_per_event"] == 50.0
    assert result["dropped_requests"] == 1
    assert result["feedback_to_live_s"] == {"p50": 2.0, "p99": 30.0}
    assert (result["promotions"], result["refusals"], result["rollbacks"], result["rounds"]) == (1, 0, 1, 1)
    assert result["drift_alarms"] == [{"event": 61, "kind": "adwin", "direction": "worse", "size": 0.3}]


def test_summary_has_every_name_of_the_contract():
    names = (
        "events classes prequential_accuracy prequential_by_phase frozen_accuracy final_test_accuracy "
        "final_test_by_phase promotions refusals rollbacks drift_alarms rounds train_steps train_cpu_s predict_cpu_s "
        "cpu_ms_per_event feedback_to_live_s dropped_requests wall_s peak_rss_mb macro_f1 recall_at_precision_99 "
        "versions seed config"
    )
    assert set(names.split()) <= set(summary(*seen()))


def test_what_the_guard_rolled_back_is_not_counted_as_the_operators():
    by_hand = Happening(kind="rollback", text="by hand", time=70)
    guarded = Happening(kind="rollback", text="worse", time=60, numbers={"automatic": True})
    plan, found = seen(happenings=[guarded, guarded, by_hand])
    result = summary(plan, found)
    assert (result["rollbacks"], result["automatic_rollbacks"]) == (3, 2)
    console = Console(file=io.StringIO(), width=300, color_system=None)
    last_words(console, result, Path("out"))
    assert isinstance(console.file, io.StringIO)
    assert "1 rollback by the operator, 2 rollbacks by the guard of the fast tier, " in console.file.getvalue()


def test_happenings_are_placed_by_their_time():
    assert [told.event for told in story(seen()[1])] == [31, 61, 71]


def test_the_outcome_is_told_when_it_loses():
    plan, found = seen()
    result = summary(plan, found)
    assert headline(result).startswith("On this data: frozen 50.0%, plain online softmax 100.0%, stream_ft 50.0%")
    page = render_report(report(plan, found, result))
    assert "learning on made no difference there" in page


def test_no_frozen_copy_is_no_number():
    plan, found = seen(final=(["a"] * 10, None, ["a"] * 10))
    result = summary(plan, found)
    assert result["frozen_final_test_accuracy"] is None
    assert "frozen 50.0%, plain online softmax 50.0%, stream_ft 80.0%" in headline(result)


def test_the_last_lines_hide_no_loss():
    plan, found = seen()
    console = Console(file=io.StringIO(), width=300, color_system=None)
    last_words(console, summary(plan, found), Path("out"))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[1:4] == [
        "Over the stream, each message predicted before it was learned: "
        "frozen 50.0%, plain online softmax 50.0%, stream_ft 80.0%.",
        "stream_ft loses to the plain online softmax by 50.0 points on the final test.",
        "On this data: frozen 50.0%, plain online softmax 100.0%, stream_ft 50.0%, at 50 ms per event.",
    ]
    assert lines[4].startswith("The report: ")


def test_what_the_demo_said_itself_is_in_the_report():
    said = [
        News(at=0, kind="demo", text="Customers begin."),
        News(at=30, kind="promotion", text="Live: better"),
        News(at=5_000, kind="demo", text="The final test."),
    ]
    plan, found = seen(said=said)
    made = report(plan, found, summary(plan, found))
    assert made.said == [(0, "Customers begin."), (50, "From here on: all is new."), (100, "The final test.")]
    assert made.phase_names == {"2": "all is new"}
    assert made.softmax == [row.label == "b" for row in found.rows]


def test_ctrl_c_is_answered_at_once():
    console = Console(file=io.StringIO(), color_system=None)

    async def performance() -> None:
        await asyncio.Event().wait()

    async def interrupted() -> None:
        task = asyncio.create_task(interruptible(console, performance()))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().startswith("Stopping")


def test_columns_without_a_file_are_told_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="--data"):
        run(out=tmp_path, text_column="text")
    assert list(tmp_path.iterdir()) == []


def test_the_columns_of_a_file_are_those_that_were_named(tmp_path: Path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label\none,a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="sentence"):
        run(out=tmp_path, data=path, text_column="sentence", label_column="label")
