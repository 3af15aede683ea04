"""The gate: who passes, who does not, and that every number it used is in the verdict."""

from __future__ import annotations

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.learn.gate import Scale, Verdict, judge, lower_bound, worth_it
from stream_ft.model.closed_form import fit_head
from stream_ft.model.heads import Head


def verdict_of(
    champion: list[float],
    candidate: list[float],
    classes: list[str] | None = None,
    *,
    min_examples: int = 200,
    margin: float = 0.02,
    class_floor: float = 0.2,
    class_support: int = 10,
    scale: Scale = "accuracy",
) -> Verdict:
    return judge(
        champion,
        candidate,
        classes,
        margin=margin,
        confidence=0.95,
        class_floor=class_floor,
        class_support=class_support,
        min_examples=min_examples,
        scale=scale,
    )


def paired(n: int, better: int, worse: int) -> tuple[list[float], list[float]]:
    """``n`` examples of which the candidate gains ``better`` and loses ``worse``; the rest both get right."""
    champion = [0.0] * better + [1.0] * (n - better)
    candidate = [1.0] * better + [0.0] * worse + [1.0] * (n - better - worse)
    return champion, candidate


def test_identical_models_pass_with_a_bound_that_is_not_vacuous() -> None:
    verdict = verdict_of(*paired(200, 0, 0))
    assert verdict.accepted
    assert verdict.difference == 0
    assert verdict.lower_bound == pytest.approx(-1.6449 * math.sqrt(2 / 202 / 202), abs=1e-5)


def test_the_bound_is_that_of_bonett_and_price() -> None:
    champion, candidate = paired(300, 12, 5)
    p12, p21, n = 13 / 302, 6 / 302, 302
    expected = p12 - p21 - 1.644854 * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / n)
    assert verdict_of(champion, candidate).lower_bound == pytest.approx(expected, abs=1e-6)


def test_a_clearly_better_candidate_passes_with_its_numbers() -> None:
    verdict = verdict_of(*paired(250, 40, 5))
    assert verdict.accepted
    assert (verdict.n, verdict.better, verdict.worse) == (250, 40, 5)
    assert verdict.champion == pytest.approx(210 / 250)
    assert verdict.candidate == pytest.approx(245 / 250)
    assert verdict.difference == pytest.approx(0.14)
    assert verdict.lower_bound is not None
    assert 0 < verdict.lower_bound < 0.14
    assert (verdict.margin, verdict.confidence, verdict.min_examples) == (0.02, 0.95, 200)


def test_a_worse_candidate_is_refused_and_told_why() -> None:
    verdict = verdict_of(*paired(300, 2, 25))
    assert not verdict.accepted
    assert "-7.7 points on 300 examples" in verdict.reason
    assert "more than -2.0 points is needed" in verdict.reason


def test_equal_but_uncertain_is_refused_and_passes_with_more_examples() -> None:
    assert not verdict_of(*paired(200, 20, 20)).accepted
    assert verdict_of(*paired(4_000, 400, 400)).accepted


def test_the_margin_decides() -> None:
    scores = paired(400, 2, 6)
    assert not verdict_of(*scores, margin=0.01).accepted
    assert verdict_of(*scores, margin=0.05).accepted


@pytest.mark.parametrize("accuracy", [0.02, 0.1, 0.5])
def test_an_untrained_champion_is_easily_beaten(accuracy: float) -> None:
    right = round(200 * accuracy)
    assert verdict_of([0.0] * 200, [1.0] * right + [0.0] * (200 - right)).accepted


@pytest.mark.parametrize(("n", "accepted"), [(199, False), (200, True)])
def test_too_few_examples_decide_nothing(n: int, accepted: bool) -> None:
    verdict = verdict_of([0.0] * n, [1.0] * n)
    assert verdict.accepted is accepted
    assert accepted or verdict.reason == "Only 199 examples to judge by; 200 are needed."


def test_no_examples_are_refused_even_if_none_are_needed() -> None:
    assert not verdict_of([], [], min_examples=0).accepted


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scale", ["accuracy", "loss"])
def test_scores_that_are_not_finite_are_refused(broken: float, scale: Scale) -> None:
    for side in (0, 1):
        scores = [[0.0] * 300, [1.0] * 300]
        scores[side][7] = broken
        verdict = verdict_of(scores[0], scores[1], scale=scale)
        assert not verdict.accepted
        assert "not finite" in verdict.reason
        assert b"null" in msgspec.json.encode(verdict)


def test_scores_outside_an_accuracy_are_refused() -> None:
    assert not verdict_of([0.0] * 200, [2.0] * 200).accepted


def test_scores_of_different_examples_are_refused() -> None:
    assert not verdict_of([0.0] * 300, [1.0] * 299).accepted
    assert not verdict_of([0.0] * 300, [1.0] * 300, ["a"] * 299).accepted


def test_a_class_that_pays_for_the_others_is_refused() -> None:
    classes = ["rare"] * 12 + ["common"] * 288
    champion = [1.0] * 12 + [0.0] * 60 + [1.0] * 228
    candidate = [0.0] * 8 + [1.0] * 4 + [1.0] * 288
    assert verdict_of(champion, candidate, None).accepted
    verdict = verdict_of(champion, candidate, classes)
    assert not verdict.accepted
    assert (verdict.worst_class, verdict.worst_class_n) == ("rare", 12)
    assert verdict.worst_class_drop == pytest.approx(8 / 12)
    assert "'rare' falls by 67 points on 12 examples" in verdict.reason


@pytest.mark.parametrize(
    ("support", "lost", "gained", "accepted"),
    [
        (9, 9, 0, True),  # too few examples of the class to tell
        (10, 10, 0, False),
        (10, 4, 0, True),  # 40 points, but four losses happen by chance
        (10, 5, 0, False),
        (20, 3, 0, True),  # within the floor
        (40, 12, 6, True),  # within the floor: what is gained counts too
    ],
)
def test_the_floor_of_a_class(support: int, lost: int, gained: int, accepted: bool) -> None:
    classes = ["one"] * support + ["other"] * 400
    champion = [1.0] * lost + [0.0] * gained + [1.0] * (support - lost - gained) + [0.0] * 100 + [1.0] * 300
    candidate = [0.0] * lost + [1.0] * (support - lost) + [1.0] * 400
    assert verdict_of(champion, candidate, classes).accepted is accepted


def test_mode_collapse_is_refused_though_the_mean_gains() -> None:
    classes = ["ham"] * 400 + ["spam"] * 20
    champion = [1.0] * 380 + [0.0] * 20 + [1.0] * 20
    candidate = [1.0] * 400 + [0.0] * 20
    verdict = verdict_of(champion, candidate, classes, margin=0.05)
    assert not verdict.accepted
    assert verdict.worst_class == "spam"


def _judged(champion: list[float], candidate: list[float], sources: list[str], **more: int) -> Verdict:
    return judge(
        champion,
        candidate,
        None,
        margin=0.02,
        confidence=0.95,
        class_floor=0.2,
        class_support=10,
        min_examples=200,
        sources=sources,
        **more,
    )


def test_one_source_cannot_buy_a_version_that_is_worse_for_the_others() -> None:
    theirs, ours = paired(150, 0, 8), paired(100, 60, 0)
    champion, candidate = theirs[0] + ours[0], theirs[1] + ours[1]
    sources = ["shop"] * 100 + [f"customer-{i}" for i in range(50)] + ["import"] * 100
    verdict = _judged(champion, candidate, sources)
    assert not verdict.accepted
    assert verdict.lower_bound is not None
    assert verdict.lower_bound > 0, "by the mean alone it would have passed"
    assert (verdict.worst_without, verdict.worst_without_n) == ("import", 150)
    assert verdict.worst_without_difference == pytest.approx(-8 / 150)
    assert "'import'" in verdict.reason
    assert _judged(champion, candidate, ["one"] * 250).accepted
    assert _judged(champion, candidate, sources, source_support=101).accepted


def test_a_change_that_all_sources_see_passes() -> None:
    champion, candidate = paired(250, 60, 3)
    assert _judged(champion, candidate, [("import", "shop", "office")[i % 3] for i in range(250)]).accepted


def test_a_loss_of_the_others_that_may_be_chance_does_not_refuse() -> None:
    theirs, ours = paired(100, 0, 4), paired(100, 60, 0)
    verdict = _judged(theirs[0] + ours[0], theirs[1] + ours[1], ["shop"] * 100 + ["import"] * 100)
    assert verdict.accepted
    assert verdict.worst_without_difference == pytest.approx(-0.04)


def test_losses_are_compared_in_nats_without_a_floor() -> None:
    draw = random.Random(0)
    champion = [-draw.uniform(1.0, 3.0) for _ in range(200)]
    better = [score + 0.3 + draw.gauss(0, 0.1) for score in champion]
    worse = [score - 0.1 + draw.gauss(0, 0.1) for score in champion]
    accepted, refused = (verdict_of(champion, other, ["x"] * 200, scale="loss") for other in (better, worse))
    assert accepted.accepted
    assert "nats" in accepted.reason
    assert not refused.accepted
    assert refused.worst_class == ""


def test_the_bound_of_losses_is_students() -> None:
    # t(0.95, 4) = 2.131847; mean 3, s = sqrt(2.5)
    bound = lower_bound([1.0, 2.0, 3.0, 4.0, 5.0], confidence=0.95, scale="loss")
    assert bound == pytest.approx(3 - 2.131847 * math.sqrt(2.5 / 5), abs=1e-5)
    assert lower_bound([1.0], confidence=0.95, scale="loss") == -math.inf


def test_a_candidate_that_is_worse_by_the_margin_seldom_passes() -> None:
    """The error rate that the confidence promises, for models that disagree on a tenth of 200 examples."""
    draw = random.Random(5)
    passed = 0
    for _ in range(1_000):
        kinds = draw.choices(("same", "better", "worse"), weights=(0.90, 0.04, 0.06), k=200)
        passed += verdict_of(*paired(200, kinds.count("better"), kinds.count("worse"))).accepted
    assert passed / 1_000 < 0.075


def clustered(seed: int, n: int) -> tuple[np.ndarray, list[str]]:
    """Synthetic embeddings ``[n, 48]`` of 12 overlapping classes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    centres = np.random.Generator(np.random.PCG64(99)).standard_normal((12, 48))
    y = rng.integers(0, 12, n)
    return (centres[y] + 1.2 * rng.standard_normal((n, 48))).astype(np.float16), [f"class {i}" for i in y]


def hits(head: Head, embeddings: np.ndarray, labels: list[str]) -> list[float]:
    return [float(label == right) for (label, _), right in zip(head.predict(embeddings), labels, strict=True)]


def test_a_candidate_trained_on_permuted_labels_is_refused_20_of_20() -> None:
    x, y = clustered(0, 1_200)
    test_x, test_y = clustered(1, 300)
    champion = hits(fit_head(x[:600], y[:600], features=0), test_x, test_y)
    assert sum(champion) / 300 > 0.8
    accepted = []
    for seed in range(20):
        shuffled = list(y)
        random.Random(seed).shuffle(shuffled)
        candidate = hits(fit_head(x, shuffled, features=0, seed=seed), test_x, test_y)
        accepted.append(verdict_of(champion, candidate, test_y).accepted)
    assert accepted == [False] * 20
    # the same gate lets the honest candidate pass
    assert verdict_of(champion, hits(fit_head(x, y, features=0), test_x, test_y), test_y).accepted


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=200, max_size=400),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter_and_the_bound_is_below_the_mean(
    pairs: list[tuple[float, float]], draw: random.Random
) -> None:
    def judged(rows: list[tuple[float, float]]) -> Verdict:
        return verdict_of([a for a, _ in rows], [b for _, b in rows])

    first = judged(pairs)
    mixed = list(pairs)
    draw.shuffle(mixed)
    assert judged(mixed) == first
    assert first.lower_bound is not None
    assert first.difference is not None
    assert first.accepted is (first.lower_bound > -0.02)
    # the pseudo-examples pull towards 0, so only a difference above the bound's width keeps it below the mean
    assert first.lower_bound < max(first.difference, 0) + 1e-12


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 150), st.integers(0, 50))
def test_one_more_loss_never_helps(better: int, worse: int) -> None:
    less = verdict_of(*paired(300, better, worse)).lower_bound
    more = verdict_of(*paired(300, better, worse + 1)).lower_bound
    assert less is not None
    assert more is not None
    assert more < less


def test_a_verdict_survives_json() -> None:
    verdict = verdict_of(*paired(250, 3, 1), ["a"] * 250)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


@pytest.mark.parametrize(
    ("better", "worse", "live", "met", "accepted", "why"),
    [
        (10, 4, [], [], True, "As good or better"),
        (10, 10, [], [], True, "As good or better"),
        (4, 5, [], [], False, "No gain that a new encoder would be worth: -0.2 points on 400 examples"),
        (10, 4, [1.0] * 100, [1.0] * 97 + [0.0] * 3, True, "As good or better"),
        (10, 4, [1.0] * 100, [1.0] * 85 + [0.0] * 15, False, "Surely worse on what came since: -15.0 points on 100"),
        (10, 4, [0.0] * 50 + [1.0] * 50, [1.0] * 50 + [0.0] * 50, True, "As good or better"),
        (1, 90, [], [], False, "Not shown to be as good"),
    ],
)
def test_a_new_encoder_has_to_be_worth_it(
    better: int, worse: int, live: list[float], met: list[float], accepted: bool, why: str
) -> None:
    verdict = worth_it(verdict_of(*paired(400, better, worse)), live, met)
    assert verdict.accepted == accepted
    assert verdict.reason.startswith(why)
    assert verdict.n == 400
