from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream_ft import metrics
from stream_ft.events import Feedback, Reject
from stream_ft.metrics import IngestMetrics, LearnMetrics, ServeMetrics, labels, new_registry, render, series
from stream_ft.metrics.labels import base_and_tier, slug

NAME = re.compile(r"stream_ft_[a-z0-9_]+")
PACKAGE = Path(metrics.__file__).parents[1]
Made = ServeMetrics | LearnMetrics | IngestMetrics


@pytest.fixture(params=[ServeMetrics, LearnMetrics, IngestMetrics])
def made(request: pytest.FixtureRequest) -> Made:
    result: Made = request.param(new_registry())
    return result


def test_no_series_is_defined_elsewhere() -> None:
    kinds = re.compile(r"from prometheus_client import [^)]*\b(Counter|Gauge|Histogram|Summary|Info|Enum)\b")
    defining = {path for path in PACKAGE.rglob("*.py") if kinds.search(path.read_text("utf-8"))}
    assert {path.parent for path in defining} == {PACKAGE / "metrics"}


def value(of: ServeMetrics | LearnMetrics, name: str, **labels: str) -> float | None:
    return of.registry.get_sample_value(f"stream_ft_{name}", labels)


def labels_of(of: ServeMetrics | LearnMetrics, name: str, label: str) -> set[str]:
    samples = [s for family in of.registry.collect() for s in family.samples]
    return {s.labels[label] for s in samples if s.name == f"stream_ft_{name}"}


def test_names_have_the_prefix_and_a_help_text(made: Made) -> None:
    families = list(made.registry.collect())
    assert families
    for family in families:
        assert NAME.fullmatch(family.name), family.name
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_inputs")), family.name


def test_no_series_of_creation_times(made: Made) -> None:
    assert b"_created" not in render(made.registry)


def test_two_processes_in_one_test_do_not_meet() -> None:
    first, second = ServeMetrics(new_registry()), ServeMetrics(new_registry())
    first.published.inc(3)
    assert value(second, "predictions_published_total") == 0


def test_a_slug_is_one_of_the_known() -> None:
    assert slug("hash", ("hash", "keys")) == "hash"
    assert slug("user-4711", ("hash", "keys")) == "other"


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("v3.7.0", ("v3", "slow")),
        ("v3.7.12", ("v3", "fast")),
        ("", ("other", "slow")),
        ("v3.7", ("other", "slow")),
        ("v3.7.x", ("other", "slow")),
        ("user 4711", ("other", "slow")),
    ],
)
def test_a_version_is_told_by_base_and_tier_never_by_its_head(version: str, said: tuple[str, str]) -> None:
    assert base_and_tier(version) == said


def flood(serve: ServeMetrics, learn: LearnMetrics, known: bool) -> None:
    """Everything that has a label gets every value of it that is ``known``, or many that are not."""
    many = range(0 if known else 10_000)

    def values(these: tuple[str, ...], what: str) -> list[str]:
        return list(these) if known else [f"{what} {i}" for i in range(100)]

    for route, code in itertools.product(labels.ROUTES, (*labels.CODES, "405")):
        serve.request(route, int(code))
    for i in many:
        serve.request(f"/user/{i}", 200 + i)
        serve.swapped(f"v{i}.{i}.{i % 2}", f"{i:064x}", i, 0.1)
        serve.predicted(f"v{i}.{i}.{i % 2}")
        learn.scored(f"v{i}.{i}.{i}", correct=bool(i % 2))
        learn.accuracy(f"v{i}", ("slow", "fast")[i % 2], 0.5)
        learn.accuracy(f"v{i}", ("slow", "fast")[1 - i % 2], 0.5)
        learn.scored(f"v{i}.{i}.{i}", correct=not i % 2)
    for i in many[::100]:
        learn.recall({f"class {i} {j}": j / 12 for j in range(12)}, 0.9)
    for step in values(labels.SWAP_STEPS, "step"):
        serve.swap_failed(step)
        serve.challenger_failed(step)
    for slot in values(labels.SLOTS, "slot"):
        serve.answered(slot)
    for result in values(labels.SHADOWED, "result"):
        serve.shadowed(result)
    for reason in values(labels.DEAD_LETTERS, "reason"):
        learn.dead_letter(reason)
    for kind in values(labels.EVENT_KINDS, "kind"):
        learn.event(kind)
    for topic in values(labels.TOPICS, "topic"):
        learn.consumed(topic, 1)
        learn.consumer(topic, lag=1, behind_s=1.0, partitions=1, stalled_s=lambda: 0.0)
    for kind in values(labels.ROUND_KINDS, "kind"):
        learn.promoted(kind)
        learn.verdict(kind, champion=0.5, challenger=0.6, bound=0.1, examples=9)
        learn.trained(kind, losses=(2.0, 1.0), step_s=0.1, steps=1, skipped=1, memory_bytes=1.0, gpu_bytes=1.0)
        for verdict in values(labels.VERDICTS, "verdict")[:50]:
            learn.round(kind, verdict)
    for limit in values(labels.LIMITS, "limit"):
        learn.over_budget(limit)
    learn.round_cost(1.0, 1.0)
    learn.promoted("operator")
    learn.replay({}, [1, 2, 3])
    learn.examples(1, 1)
    learn.capacity(1, 1)
    learn.waiting(1, 1)
    learn.judged(True)
    learn.judged(False)
    learn.rolling(accuracy=0.9, corrections=0.5, rating=1.0)
    learn.drift("adwin", statistic=0.1, threshold=0.2, error=0.1)


def flooded() -> list[CollectorRegistry]:
    """The registries of the three roles after the flood."""
    serve, learn, ingest = ServeMetrics(new_registry()), LearnMetrics(new_registry()), IngestMetrics(new_registry())
    for made in (serve, learn, ingest):
        metrics.watch_process(made.registry)
    flood(serve, learn, known=True)
    flood(serve, learn, known=False)
    ingest.rates(corrections=3, busiest=[3, 2, 1], sources=3)
    return [serve.registry, learn.registry, ingest.registry]


def test_fault_25_ten_thousand_users_labels_versions_and_reasons_make_few_series() -> None:
    count = sum(series(registry) for registry in flooded())
    assert count <= metrics.MOST_SERIES - 25, f"{count}: there is to be room for what comes"
    assert count > 300, "the flood has reached what it was to reach"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("role", [0, 1, 2], ids=["serve", "learn", "ingest"])
def test_promtool_finds_nothing_wrong_with_what_a_scrape_returns(role: int) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=render(flooded()[role]), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_fault_25_nor_do_they_in_an_ingest_worker() -> None:
    ingest = IngestMetrics(new_registry())
    before = series(ingest.registry)
    for i in range(10_000):
        ingest.taken(Reject(stage="decode", reason=f"reason {i}", detail="."))
        ingest.taken(Feedback(prediction_id=f"p{i}", kind="accept", source=f"user-{i}"))
    ingest.rates(corrections=3, busiest=list(range(10_000, 0, -1)), sources=10_000)
    assert series(ingest.registry) == before < 60


def test_the_last_eight_bases_have_series_and_those_that_leave_lose_theirs() -> None:
    learn, serve = LearnMetrics(new_registry()), ServeMetrics(new_registry())
    for i in range(20):
        learn.scored(f"v{i}.{i}.0", correct=True)
        learn.accuracy(f"v{i}", "slow", i / 20)
        serve.predicted(f"v{i}.{i}.3")
        if i > 5:
            learn.scored("v5.5.0", correct=False)  # a base of which something is still said stays
            serve.predicted("v5.5.0")
    kept = {"v5", *(f"v{i}" for i in range(13, 20))}
    assert labels_of(learn, "live_accuracy_ratio", "base") == kept
    assert labels_of(learn, "scored_answers_total", "base") == kept
    assert labels_of(serve, "answers_total", "base") == kept
    assert value(learn, "live_accuracy_ratio", base="v5", tier="slow") == 0.25
    assert value(learn, "scored_answers_total", base="v5", result="wrong") == 14
    assert value(serve, "answers_total", base="v5", tier="slow") == 14


def test_the_classes_that_do_worst_are_shown_and_the_others_not_any_more() -> None:
    learn = LearnMetrics(new_registry())
    learn.recall({"refund": 0.2, "parcel\nlost": 0.3}, 0.9)
    assert labels_of(learn, "class_recall_ratio", "class") == {"refund", "parcel lost", "other"}
    learn.recall({"greeting": 0.4}, None)
    assert labels_of(learn, "class_recall_ratio", "class") == {"greeting"}
    learn.recall({"a" * 100: 0.4, "": 0.5}, None)
    assert labels_of(learn, "class_recall_ratio", "class") == {"a" * 64, "unnamed"}


def test_only_one_base_is_shown_as_active() -> None:
    serve = ServeMetrics(new_registry())
    serve.swapped("v0.0.0", "a" * 64, 0, 0.1)
    serve.swapped("v1.4.7", "b" * 64, 4, 0.2)
    samples = [s for f in serve.registry.collect() for s in f.samples if s.name == "stream_ft_active_base_info"]
    assert [(s.labels["base"], s.labels["sha256"], s.value) for s in samples] == [("v1", "b" * 12, 1.0)]
    assert value(serve, "swap_seconds_count") == 2
    assert value(serve, "active_epoch") == 4


def test_what_is_not_known_has_no_series() -> None:
    learn = LearnMetrics(new_registry())
    learn.verdict("head", champion=None, challenger=float("nan"), bound=None, examples=12)
    learn.trained("head", losses=None, step_s=0.0, steps=0, skipped=0, memory_bytes=5.0, gpu_bytes=0.0)
    for name in ("gate_score_ratio", "gate_bound_ratio", "round_gpu_memory_bytes", "trainer_loss"):
        assert not [s for f in learn.registry.collect() for s in f.samples if s.name == f"stream_ft_{name}"], name
    assert value(learn, "gate_examples", kind="head") == 12
    assert value(learn, "round_memory_bytes", kind="head") == 5.0


def test_a_round_costs_no_less_than_nothing() -> None:
    learn = LearnMetrics(new_registry())
    learn.round("lora", "refused")
    learn.round_cost(2.0, cpu_s=-1.0)
    assert value(learn, "round_cpu_seconds_total") == 0
    assert value(learn, "round_seconds_count") == 1
    assert value(learn, "rounds_total", kind="lora", verdict="refused") == 1


def test_how_long_a_partition_stands_still_is_asked_at_every_scrape() -> None:
    learn = LearnMetrics(new_registry())
    still = [1.0]
    learn.consumer("labels", lag=3, behind_s=2.0, partitions=4, stalled_s=lambda: still[0])
    assert value(learn, "consumer_stalled_seconds", topic="labels") == 1.0
    still[0] = 61.0
    assert value(learn, "consumer_stalled_seconds", topic="labels") == 61.0
    assert value(learn, "consumer_lag_events", topic="labels") == 3
    assert value(learn, "consumer_lag_seconds", topic="labels") == 2.0


def test_the_memory_of_a_process_is_shown_under_its_usual_name() -> None:
    registry = new_registry()
    metrics.watch_process(registry)
    assert (registry.get_sample_value("process_resident_memory_bytes") or 0) > 1e6
