"""The streams of the learning benchmark: repeatable, and what each says it is."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from stream_ft.connectors.files import read_rows
from stream_ft.wiring.feeding import fed_labels

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str):
    """A module of the folder ``benchmarks``, which is no package."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


streams = load("streams")

LABELS = [f"label {number}" for number in range(30)]
WORDS = ["card", "cash", "limit", "money", "transfer", "refund", "the", "a", "my", "is"]


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    return [
        (f"{' '.join(draw.choices(WORDS, k=5))} number {seed} {at}", LABELS[at % len(LABELS)]) for at in range(count)
    ]


TRAIN, TEST = rows(3_000, 1), rows(300, 2)


def made(name: str, seed: int = 0, limit: int = 0):
    return streams.make(name, TRAIN, TEST, seed=seed, limit=limit)


@pytest.mark.parametrize("name", list(streams.STREAMS))
def test_the_seed_fixes_a_stream_and_another_seed_gives_another(name):
    assert made(name) == made(name)
    assert made(name).events != made(name, seed=1).events
    assert len(made(name).events) == len(TRAIN)
    assert len(made(name).test) == len(TEST)
    assert len(made(name, limit=1_000).events) == 1_000


@pytest.mark.parametrize("name", [name for name in streams.STREAMS if name not in ("jargon",)])
def test_texts_are_those_of_the_rows_and_none_comes_twice(name):
    stream = made(name)
    assert sorted(event.text for event in stream.events) == sorted(text for text, _ in TRAIN)
    assert [text for text, _ in stream.test] == [text for text, _ in TEST]


def renamed_labels(stream, start: int, end: int) -> dict[str, set[str]]:
    """For each label of the rows, under which names it comes between two events."""
    original = dict(TRAIN)
    names: dict[str, set[str]] = {}
    for event in stream.events[start:end]:
        names.setdefault(original[event.text], set()).add(event.truth)
    return names


def test_a_renaming_permutes_twenty_labels_at_sixty_per_cent():
    stream = made("rename")
    (change,) = stream.changes
    assert change == 1_800
    assert renamed_labels(stream, 0, change) == {label: {label} for label in LABELS}
    after = {label: min(names) for label, names in renamed_labels(stream, change, 3_000).items()}
    assert all(len(names) == 1 for names in renamed_labels(stream, change, 3_000).values())
    assert sorted(after.values()) == sorted(LABELS)
    assert sum(label != name for label, name in after.items()) == 20
    assert [label for _, label in stream.test] == [after[label] for _, label in TEST]
    assert all(event.fed == event.truth for event in stream.events)
    assert made("rename").events[:change] == made("stationary").events[:change]


def test_noise_changes_what_is_fed_and_only_that():
    stream, clean = made("rename_noise10"), made("rename")
    assert [event.truth for event in stream.events] == [event.truth for event in clean.events]
    wrong = sum(event.fed != event.truth for event in stream.events)
    assert 0.08 < wrong / len(stream.events) < 0.12
    assert stream.test == clean.test


def test_the_delayed_stream_is_the_renaming_with_a_delay():
    stream = made("delayed200")
    assert stream.delay == 200
    assert stream.events == made("rename").events


def test_phases_bring_new_classes_and_leave_a_tenth_outside():
    stream = made("phased")
    assert [event.phase for event in stream.events] == sorted(event.phase for event in stream.events)
    end, classes = stream.first_phase
    assert len(classes) == len(LABELS) // 5
    assert stream.changes[0] == end
    assert len(stream.changes) == 4
    inside = Counter(event.truth in classes for event in stream.events[:end])
    assert 0.8 < inside[True] / end < 0.97
    assert made("rename").first_phase is None


def test_a_gradual_drift_mixes_old_and_new_names_and_ends_with_the_new():
    stream = made("gradual")
    (start,) = stream.changes
    assert start == 1_200
    assert renamed_labels(stream, 0, start) == {label: {label} for label in LABELS}
    assert sum(len(names) == 2 for names in renamed_labels(stream, start, 2_400).values()) == 20
    assert all(len(names) == 1 for names in renamed_labels(stream, 2_400, 3_000).values())


def test_recurring_names_come_back():
    stream = made("recurring")
    spans = [renamed_labels(stream, a, b) for a, b in ((0, 1200), (1200, 1800), (1800, 2400), (2400, 3000))]
    assert spans[0] == spans[2]
    assert spans[1] == spans[3] != spans[0]
    last = {label: min(names) for label, names in spans[3].items()}
    assert [label for _, label in stream.test] == [last[label] for _, label in TEST]


def test_jargon_replaces_content_words_one_for_one_and_keeps_the_grammar():
    words = streams.jargon_words([text for text, _ in TRAIN], count=400, seed=0)
    assert set(words) == {"card", "cash", "limit", "money", "transfer", "refund", "number"}
    assert len(set(words.values())) == len(words)
    assert not set(words.values()) & {word for text, _ in TRAIN for word in text.split()}
    stream = made("jargon")
    assert not any("card" in event.text for event in stream.events)
    assert any(words["card"] in text for text, _ in stream.test)
    assert any("the" in event.text.split() for event in stream.events)
    first = dict(zip((text for text, _ in TEST), stream.test, strict=True))
    text, label = TEST[0]
    assert first[text] == (" ".join(words.get(word, word) for word in text.split()), label)


def test_words_beyond_the_number_asked_for_stay():
    words = streams.jargon_words(["card card card cash cash limit"], count=2, seed=0)
    assert set(words) == {"card", "cash"}


@pytest.mark.parametrize("name", ["phased", "rename_noise10"])
def test_the_files_feed_a_simulation_the_same_events(name, tmp_path):
    stream = made(name)
    file, test = stream.write(tmp_path)
    read = read_rows(file, text_column="text", label_column="category", phase_column="phase")
    assert [(row.text, row.label, row.phase) for row in read] == [(e.text, e.truth, e.phase) for e in stream.events]
    assert fed_labels(read, noise=stream.noise, seed=stream.seed) == [event.fed for event in stream.events]
    read = read_rows(test, text_column="text", label_column="category")
    assert [(row.text, row.label) for row in read] == list(stream.test)


@pytest.mark.skipif("STREAM_FT_DATA" not in os.environ, reason="needs STREAM_FT_DATA")
def test_banking77_gives_ten_thousand_events_of_which_most_words_are_known():
    common = load("common")
    train, test = common.banking77("train"), common.banking77("test")
    stream = streams.make("jargon", train, test, seed=0)
    assert (len(stream.events), len(stream.test)) == (10_003, 3_080)
    changed = sum(event.text != text for event, (text, _) in zip(stream.events, stream_rows(train, 0), strict=True))
    assert changed > 9_900
    words = streams.jargon_words([text for text, _ in train], count=400, seed=0)
    assert {"card", "transfer", "money", "account"} <= set(words)
    assert not {"the", "my", "how", "is"} & set(words)


def stream_rows(train, seed: int):
    return [(event.text, event.truth) for event in streams.make("stationary", train, [], seed=seed).events]
