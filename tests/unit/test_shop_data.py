"""The demo's data: what is committed is what the generator writes, and the test's wordings are unseen."""

import re
from collections import Counter

import pytest

from stream_ft.demo import shop


def bare(text: str) -> str:
    """A wording without what varies: slots, digits, case and punctuation."""
    return re.sub(r"[^a-z]+", " ", re.sub(r"\{\w+\}", "", text.lower())).strip()


def grams(text: str) -> set[str]:
    return {text[i : i + 4] for i in range(len(text) - 3)}


def test_committed_files_are_what_the_generator_writes():
    data = shop.generate()
    assert shop.committed("train") == list(data.stream)
    assert shop.committed("test") == list(data.test)


def test_another_seed_gives_other_messages():
    assert shop.generate(1, rows=50, phase_1=20, test=10) != shop.generate(2, rows=50, phase_1=20, test=10)
    assert shop.generate(1, rows=50, phase_1=20, test=10) == shop.generate(1, rows=50, phase_1=20, test=10)


def test_no_template_is_on_both_sides():
    train = {bare(t) for found in shop.templates("train").values() for t in found}
    test = {bare(t) for found in shop.templates("test").values() for t in found}
    assert not train & test
    assert len(train) == sum(len(found) for found in shop.templates("train").values())


def test_no_test_template_is_a_train_template_in_disguise():
    train = [grams(bare(t)) for found in shop.templates("train").values() for t in found]
    for found in shop.templates("test").values():
        for template in found:
            own = grams(bare(template))
            assert max(len(own & other) / len(own | other) for other in train) < 0.75, template


def test_no_test_message_is_in_the_stream():
    data = shop.generate()
    assert not {bare(row.text) for row in data.stream} & {bare(row.text) for row in data.test}


def test_fifteen_labels_then_a_sixteenth():
    stream = shop.committed("train")
    first = {row.label for row in stream if row.phase == "1"}
    second = {row.label for row in stream if row.phase == "2"}
    assert len(first) == 15
    assert second - first == {shop.LATE}
    assert [row.phase for row in stream] == sorted(row.phase for row in stream)
    assert 0.4 < sum(row.phase == "1" for row in stream) / len(stream) < 0.5


def test_the_desks_exchange_their_work():
    assert shop.label_of("warranty", 1) == shop.label_of("return_item", 2) == "aftersales_b"
    assert shop.label_of("warranty", 2) == shop.label_of("return_item", 1) == "aftersales_a"
    repair = [row for row in shop.committed("train") if "repair" in row.text.lower() and row.label.startswith("after")]
    assert {(row.phase, row.label) for row in repair} == {("1", "aftersales_b"), ("2", "aftersales_a")}


def test_the_test_set_has_every_label_as_phase_2_means_it():
    test = shop.committed("test")
    assert {row.label for row in test} == {row.label for row in shop.committed("train") if row.phase == "2"}
    assert {row.label for row in test if row.phase == "2"} == {"aftersales_a", "aftersales_b", shop.LATE}
    assert min(Counter(row.label for row in test).values()) >= 25


def test_messages_vary():
    texts = [row.text for row in shop.committed("train")]
    assert len(set(texts)) / len(texts) > 0.9
    assert min(map(len, texts)) >= 8
    assert any(text.isupper() for text in texts)
    assert any(text.islower() for text in texts)
    assert not any("{" in text or "|" in text or "\t" in text or "(" in text for text in texts)


def test_slots_named_twice_differ():
    import random

    for seed in range(50):
        one, other = shop.fill(random.Random(seed), "{colour}/{colour}").split("/")
        assert one != other


@pytest.mark.parametrize("at", range(40))
def test_a_slip_changes_at_most_one_letter(at: int):
    import random

    text = "where is my parcel"
    slipped = shop._slip(random.Random(at), text)
    assert slipped[0] == "w"
    assert abs(len(slipped) - len(text)) <= 1


def test_round_trip_of_the_file_format():
    rows = list(shop.generate(3, rows=30, phase_1=10, test=5).stream)
    assert shop.read_tsv(shop.to_tsv(rows)) == rows
