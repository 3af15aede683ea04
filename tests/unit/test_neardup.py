from __future__ import annotations

import numpy as np
import pytest
from store_kit import sentence

from stream_ft.replay.neardup import (
    BANDS,
    NEAR,
    ROWS,
    NearDuplicates,
    digest,
    grams,
    normalise,
    signature,
    signatures,
    similarity,
)

CHINESE = "我想知道我上个星期一在你们商店买的红色鞋子什么时候可以送到我家里"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello \t World\n", "hello world"),
        ("ＡＢＣ１２３", "abc123"),
        ("Straße", "strasse"),
        ("İ", "i̇"),
        ("ﬀ", "ff"),
        ("我要　退货", "我要 退货"),
        ("ÉTÉ", "été"),
        ("e\u0301te\u0301", "été"),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_digests_name_texts() -> None:
    assert digest("a") == digest("a")
    assert digest("a") != digest("b")
    assert len(digest("")) == 16


def test_punctuation_and_spaces_do_not_count() -> None:
    assert (grams("re-fund, please!") == grams("refund please")).all()
    assert (grams("退货。谢谢！") == grams("退货 谢谢")).all()


def test_a_text_of_signs_alone_is_still_a_text() -> None:
    assert len(grams("🙂👍")) > 0
    assert similarity(grams("🙂👍"), grams("👎👎")) == 0


def test_marks_that_belong_to_letters_count() -> None:
    assert similarity(grams("कि कि कि"), grams("की की की")) < 1


def test_similarity_is_jaccard() -> None:
    left, right = grams("abcdef"), grams("bcdefg")
    assert similarity(left, right) == pytest.approx(3 / 5)
    assert similarity(left, left) == 1
    assert similarity(left, grams("zzzzz")) == 0


def test_signatures_estimate_similarity() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    errors = []
    for share in (20, 60, 95):
        common = rng.integers(0, 2**63, share, dtype=np.uint64)
        left = np.concatenate([common, rng.integers(0, 2**63, 100 - share, dtype=np.uint64)])
        right = np.concatenate([common, rng.integers(0, 2**63, 100 - share, dtype=np.uint64)])
        estimate = float(np.mean(signature(left) == signature(right)))
        errors.append(abs(estimate - similarity(np.unique(left), np.unique(right))))
    assert len(signature(grams("abc"))) == BANDS * ROWS
    assert max(errors) < 0.2


@pytest.mark.parametrize(
    ("stored", "query"),
    [
        ("when will the red shoes that I ordered arrive", "when will the red shoes that I ordered arrive today"),
        ("when will the red shoes that I ordered arrive", "when will the red shoos that I ordered arrive"),
        (CHINESE, CHINESE + "呢"),
        (CHINESE, CHINESE.replace("红色", "红 色")),
        ("ok", "ok!"),
    ],
)
def test_near_duplicates_are_found(stored: str, query: str) -> None:
    index = NearDuplicates()
    for number in range(200):
        index.add(number, normalise(sentence(number)))
    index.add(999, normalise(stored))
    ((id, value),) = index.near(normalise(query))
    assert id == 999
    assert value >= NEAR


@pytest.mark.parametrize(
    ("stored", "query"),
    [
        ("I want to return my order", "I want to cancel my order"),
        ("我要退货", "我要换货"),
        (CHINESE, "我想知道我上个星期一在你们商店买的蓝色裙子为什么还没有退款给我"),
        ("yes", "no"),
    ],
)
def test_texts_that_only_resemble_are_not(stored: str, query: str) -> None:
    index = NearDuplicates()
    index.add(1, normalise(stored))
    assert index.near(normalise(query)) == []


def test_no_near_duplicate_of_a_thousand_is_missed() -> None:
    index = NearDuplicates()
    texts = [sentence(n) for n in range(1_000)]
    for number, text in enumerate(texts):
        index.add(number, text)
    found = sum(index.near(text + "x")[:1] == [(n, pytest.approx(1, abs=0.1))] for n, text in enumerate(texts))
    assert found == 1_000


def test_what_was_removed_is_not_found() -> None:
    index = NearDuplicates()
    index.add(1, CHINESE)
    index.add(2, CHINESE)
    index.remove(1)
    index.remove(1)
    assert [id for id, _ in index.near(CHINESE)] == [2]
    index.remove(2)
    assert index.near(CHINESE) == []
    assert len(index) == 0


def test_the_most_similar_comes_first() -> None:
    index = NearDuplicates()
    text = "when will the red shoes that I ordered arrive at my house"
    index.add(1, text + " now")
    index.add(2, text)
    assert [id for id, _ in index.near(text)] == [2, 1]


def test_thousands_of_copies_stay_cheap() -> None:
    index = NearDuplicates()
    for number in range(3_000):
        index.add(number, CHINESE)
    assert 0 < len(index.near(CHINESE)) <= 64


def test_signatures_made_together_are_those_made_alone() -> None:
    texts = ["", "a", "ab", "abc", "🙂👍", CHINESE, *(normalise(sentence(n)) for n in range(70)), "x" * 5_000]
    for text, sketch in zip(texts, signatures(texts), strict=True):
        assert (sketch == signature(grams(text))).all(), text
