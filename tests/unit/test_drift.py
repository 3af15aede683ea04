"""Alarms: none on a stable stream, one per rise, none on improvement, and no value that poisons them."""

from __future__ import annotations

import math
import random

import pytest

from stream_ft.errors import ConfigError
from stream_ft.learn.drift import Alarm, Detector, NoDrift, detector

NAMES = ("adwin", "page_hinkley")


def feed(found: Detector, rate: float, count: int, draw: random.Random) -> list[tuple[int, Alarm]]:
    """Feed ``count`` Bernoulli errors; the alarms and when they came."""
    alarms = []
    for i in range(count):
        if (alarm := found.update(float(draw.random() < rate))) is not None:
            alarms.append((i, alarm))
    return alarms


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.3])
def test_at_most_one_alarm_in_10_000_stable_events_over_20_seeds(name: str, rate: float) -> None:
    alarms = [feed(detector(name, delta=1e-5), rate, 10_000, random.Random(seed)) for seed in range(20)]
    assert sum(map(len, alarms)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_rise_is_found_within_300_events_once_and_with_its_size(name: str) -> None:
    for seed in range(20):
        draw, found = random.Random(seed), detector(name, delta=1e-5)
        assert feed(found, 0.1, 1_000, draw) == []
        alarms = feed(found, 0.4, 2_000, draw)
        assert len(alarms) == 1
        at, alarm = alarms[0]
        assert at < 300
        assert (alarm.kind, alarm.direction) == (name, "worse")
        assert 0.05 < alarm.before < 0.25
        assert alarm.size == pytest.approx(alarm.after - alarm.before)
        assert alarm.size > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_getting_better_is_no_alarm(name: str) -> None:
    for seed in range(10):
        draw, found = random.Random(seed), detector(name, delta=1e-5)
        alarms = feed(found, 0.6, 1_000, draw) + feed(found, 0.3, 1_000, draw) + feed(found, 0.05, 2_000, draw)
        assert alarms == []


def test_adwin_sees_a_rise_after_an_improvement() -> None:
    draw, found = random.Random(1), detector("adwin", delta=1e-5)
    assert feed(found, 0.5, 1_000, draw) + feed(found, 0.1, 2_000, draw) == []
    assert len(feed(found, 0.5, 400, draw)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_are_passed_over(name: str) -> None:
    plain, poisoned = detector(name, delta=1e-5), detector(name, delta=1e-5)
    draw = random.Random(3)
    errors = [float(draw.random() < 0.1) for _ in range(600)] + [float(draw.random() < 0.5) for _ in range(400)]
    expected = [i for i, error in enumerate(errors) if plain.update(error) is not None]
    assert len(expected) == 1
    found = []
    for i, error in enumerate(errors):
        for bad in (math.nan, math.inf, -math.inf):
            assert poisoned.update(bad) is None
        if poisoned.update(error) is not None:
            found.append(i)
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_reset_forgets(name: str) -> None:
    draw, found = random.Random(4), detector(name, delta=1e-5)
    feed(found, 0.1, 1_000, draw)
    found.reset()
    assert feed(found, 0.4, 3_000, draw) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_same_errors_give_the_same_alarms(name: str) -> None:
    runs = []
    for _ in range(2):
        draw, found = random.Random(6), detector(name, delta=1e-5)
        runs.append(feed(found, 0.1, 800, draw) + feed(found, 0.5, 800, draw))
    assert runs[0] == runs[1]
    assert len(runs[0]) == 1


def test_a_smaller_delta_alarms_later() -> None:
    at = []
    for delta in (1e-2, 1e-9):
        draw, found = random.Random(7), detector("adwin", delta=delta)
        feed(found, 0.1, 1_000, draw)
        at.append(feed(found, 0.4, 1_000, draw)[0][0])
    assert at[0] < at[1]


def test_none_never_alarms() -> None:
    found = detector("none", delta=1e-5)
    assert isinstance(found, NoDrift)
    assert found.reading() is None
    assert feed(found, 0.0, 500, random.Random(0)) + feed(found, 1.0, 500, random.Random(0)) == []
    found.reset()


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(ConfigError, match="adwin, page_hinkley or none"):
        detector("ddm", delta=0.1)


# --- what an operator sees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adwin", "page_hinkley"])
def test_what_is_watched_reaches_the_threshold_about_where_the_alarm_is(name: str) -> None:
    found, draw = detector(name, delta=1e-5), random.Random(0)
    first = found.reading()
    assert first is not None
    assert (first.detector, first.error) == (name, 0.0)
    assert first.statistic < first.threshold
    feed(found, 0.1, 2_000, draw)
    calm = found.reading()
    assert calm is not None
    assert calm.statistic < 0.7 * calm.threshold
    assert 0.0 <= calm.error <= 0.3
    last = calm
    for _ in range(1_000):
        if found.update(float(draw.random() < 0.6)) is not None:
            break
        seen = found.reading()
        assert seen is not None
        last = seen
    assert last.statistic > 0.7 * last.threshold
    assert last.error > 0.3
    fresh = found.reading()
    assert fresh is not None
    assert fresh.error == 0.0, "an alarm begins anew"
