from __future__ import annotations

import re

import pytest

from stream_ft.metrics import DEAD_LETTERS, LearnMetrics, ServeMetrics, new_registry, render, series, slug

NAME = re.compile(r"stream_ft_[a-z0-9_]+")
UNITS = ("_total", "_seconds", "_ratio", "_info")


@pytest.fixture(params=[ServeMetrics, LearnMetrics])
def made(request: pytest.FixtureRequest) -> ServeMetrics | LearnMetrics:
    result: ServeMetrics | LearnMetrics = request.param(new_registry())
    return result


def test_names_have_the_prefix_and_a_help_text(made: ServeMetrics | LearnMetrics) -> None:
    families = list(made.registry.collect())
    assert families
    for family in families:
        assert NAME.fullmatch(family.name), family.name
        assert family.documentation.endswith("."), family.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_inputs")), family.name


def test_no_series_of_creation_times(made: ServeMetrics | LearnMetrics) -> None:
    assert b"_created" not in render(made.registry)


def test_two_processes_in_one_test_do_not_meet() -> None:
    first, second = ServeMetrics(new_registry()), ServeMetrics(new_registry())
    first.published.inc(3)
    assert second.registry.get_sample_value("stream_ft_predictions_published_total") == 0


def test_a_slug_is_one_of_the_known() -> None:
    assert slug("hash", ("hash", "keys")) == "hash"
    assert slug("user-4711", ("hash", "keys")) == "other"


def test_fault_25_ten_thousand_users_versions_and_reasons_make_few_series() -> None:
    serve, learn = ServeMetrics(new_registry()), LearnMetrics(new_registry())
    for i in range(10_000):
        serve.request(f"/user/{i}", 200 + i)
        serve.swapped(f"v{i}.{i}.0", f"{i:064x}", i, 0.1)
        serve.swap_failed(f"step {i}")
        learn.dead_letter(f"reason {i}")
        learn.event(f"kind {i}")
        learn.round(f"kind {i}", f"verdict {i}", 1.0, 1.0)
    assert series(serve.registry) + series(learn.registry) <= 500


def test_only_one_version_is_shown_as_active() -> None:
    metrics = ServeMetrics(new_registry())
    metrics.swapped("v0.0.0", "a" * 64, 0, 0.1)
    metrics.swapped("v1.1.0", "b" * 64, 1, 0.2)
    samples = [s for f in metrics.registry.collect() for s in f.samples if s.name == "stream_ft_active_version_info"]
    assert [(s.labels["version"], s.labels["base"], s.value) for s in samples] == [("v1.1.0", "b" * 12, 1.0)]
    assert metrics.registry.get_sample_value("stream_ft_swap_seconds_count") == 2


def test_every_label_value_is_possible_at_once_and_still_small() -> None:
    learn = LearnMetrics(new_registry())
    for reason in DEAD_LETTERS:
        learn.dead_letter(reason)
    learn.examples(train=3, holdout=1)
    assert learn.registry.get_sample_value("stream_ft_examples", {"split": "holdout"}) == 1
    assert learn.registry.get_sample_value("stream_ft_dead_letters_total", {"reason": "other"}) is None


def test_a_round_costs_no_less_than_nothing() -> None:
    learn = LearnMetrics(new_registry())
    learn.round("lora", "refused", 2.0, cpu_s=-1.0)
    assert learn.registry.get_sample_value("stream_ft_round_cpu_seconds_total") == 0
    assert learn.registry.get_sample_value("stream_ft_rounds_total", {"kind": "lora", "verdict": "refused"}) == 1
