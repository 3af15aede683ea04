"""The gate: paired scores of champion and candidate on the same examples, and a verdict with every number used.

Non-inferiority, not superiority: a candidate that learned something rare must not wait until it is visibly better on
what is common. It passes when the one-sided lower bound of its mean difference exceeds minus the margin, when no class
pays for it, and when no single source bought it: without the examples of any one source that brought many, the others
must not be worse off. A broken import looks like a change of meaning in its own examples; the others' tell them apart.

For scores in [0, 1] the bound is Bonett and Price's adjusted Wald bound for paired proportions (2012, "Adjusted Wald
confidence interval for a difference of binomial proportions based on paired data", J. Educ. Behav. Stat. 37): one
pseudo-example is added to either side that disagrees, that is a difference of +1 and one of -1, and then, with the mean
``m`` and the population variance ``v`` of the ``n + 2`` differences, ``bound = m - z * sqrt(v / (n + 2))``. Two models
that never disagree on 200 examples get -1.2 points, not a vacuous 0. For losses, which have no such scale, it is
Student's: ``m - t * s / sqrt(n)``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

Scale = Literal["accuracy", "loss"]
"""``accuracy``: scores in [0, 1]. ``loss``: minus a loss, in nats. Greater is better in both."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What the gate decided, and every number it used."""

    accepted: bool
    reason: str
    """One or two sentences for an operator."""
    scale: Scale
    n: int
    """Examples that both were scored on."""
    champion: float | None = None
    """Mean score; ``None`` where it could not be computed."""
    candidate: float | None = None
    difference: float | None = None
    """Candidate minus champion."""
    lower_bound: float | None = None
    """One-sided lower bound of the difference."""
    margin: float
    confidence: float
    min_examples: int
    better: int = 0
    """Examples on which the candidate scores higher."""
    worse: int = 0
    worst_class: str = ""
    """The class of at least ``class_support`` examples whose recall fell most; empty if none fell."""
    worst_class_n: int = 0
    worst_class_drop: float = 0.0
    class_floor: float = 0.0
    class_support: int = 0
    worst_without: str = ""
    """The source without whose examples the candidate does worst; empty if all came from one."""
    worst_without_n: int = 0
    """Examples of all the others."""
    worst_without_difference: float = 0.0
    """Candidate minus champion on those."""
    source_support: int = 0


class _Rest(Struct, frozen=True):
    without: str
    n: int
    difference: float
    significant: bool


class _Fall(Struct, frozen=True):
    name: str
    n: int
    drop: float
    significant: bool


def judge(
    champion: Sequence[float],
    candidate: Sequence[float],
    classes: Sequence[str] | None,
    *,
    margin: float,
    confidence: float,
    class_floor: float,
    class_support: int,
    min_examples: int,
    scale: Scale = "accuracy",
    sources: Sequence[str] = (),
    source_support: int = 30,
) -> Verdict:
    """Compare two versions on the same examples. Pure.

    Args:
        champion, candidate: ``[n]`` scores, paired; see :data:`Scale`.
        classes: ``[n]`` right classes, or ``None`` where there are none: then there is no floor.
        margin: accepted if the lower bound of the difference exceeds minus this (points / 100, or nats).
        confidence: one-sided, of the bound and of the floor.
        class_floor: a class may lose this much recall. Beyond it the candidate is refused, if the loss is also more
            than chance: a sign test on the class's examples that changed, at ``confidence``.
        class_support: examples of a class needed for the floor.
        min_examples: fewer decide nothing: refused.
        scale: of the scores.
        sources: ``[n]`` who said what is right; empty where nobody knows.
        source_support: a source with so many examples is left out in turn, if the others have as many. Refused if the
            others lose more than the margin, and by more than chance: a sign test, at ``confidence``.
    """
    n = len(champion)

    def verdict(accepted: bool, reason: str, **numbers: float | int | str | None) -> Verdict:
        return Verdict(
            accepted=accepted,
            reason=reason,
            scale=scale,
            n=n,
            margin=margin,
            confidence=confidence,
            min_examples=min_examples,
            class_floor=class_floor,
            class_support=class_support,
            source_support=source_support,
            **numbers,  # type: ignore[arg-type]
        )

    if len(candidate) != n or (classes is not None and len(classes) != n) or len(sources) not in (0, n):
        return verdict(False, "The scores of champion and candidate are not of the same examples.")
    if n < max(1, min_examples):
        return verdict(False, f"Only {n} examples to judge by; {min_examples} are needed.")
    if not all(math.isfinite(score) for score in (*champion, *candidate)):
        return verdict(False, "Some scores are not finite: the candidate is broken.")
    if scale == "accuracy" and not all(0 <= score <= 1 for score in (*champion, *candidate)):
        return verdict(False, "Some scores are not between 0 and 1, as an accuracy must be.")

    differences = [b - a for a, b in zip(champion, candidate, strict=True)]
    bound = lower_bound(differences, confidence=confidence, scale=scale)
    mean = math.fsum(differences) / n
    fall = _worst(differences, classes, class_floor, class_support, confidence) if scale == "accuracy" else None
    numbers: dict[str, float | int | str | None] = {
        "champion": math.fsum(champion) / n,
        "candidate": math.fsum(candidate) / n,
        "difference": mean,
        "lower_bound": bound,
        "better": sum(d > 0 for d in differences),
        "worse": sum(d < 0 for d in differences),
    }
    rest = _without_one(differences, sources, margin, source_support, confidence)
    if rest is not None:
        numbers |= {
            "worst_without": rest.without,
            "worst_without_n": rest.n,
            "worst_without_difference": rest.difference,
        }
    if fall is not None and fall.drop > 0:
        numbers |= {"worst_class": fall.name, "worst_class_n": fall.n, "worst_class_drop": fall.drop}

    compared = (
        f"{_shown(mean, scale)} on {n} examples, at least {_shown(bound, scale)} with {confidence:.0%} confidence"
    )
    if bound <= -margin:
        return verdict(
            False, f"Not shown to be as good: {compared}; more than {_shown(-margin, scale)} is needed.", **numbers
        )
    if rest is not None and rest.significant:
        return verdict(
            False,
            f"Only the examples of {rest.without!r} speak for it: {_shown(rest.difference, scale)} on the {rest.n} of"
            f" all others. Overall: {compared}.",
            **numbers,
        )
    if fall is not None and fall.significant:
        return verdict(
            False,
            f"Recall of {fall.name!r} falls by {fall.drop * 100:.0f} points on {fall.n} examples;"
            f" at most {class_floor * 100:.0f} are allowed. Overall: {compared}.",
            **numbers,
        )
    return verdict(True, f"As good or better: {compared}.", **numbers)


def worth_it(verdict: Verdict, live: Sequence[float], candidate: Sequence[float]) -> Verdict:
    """The verdict on a new encoder, for which all embeddings are made anew: that it does no harm is not enough. Pure.

    It must not do worse on the examples to judge by. And on what came while it was brought up to date, which it
    predicted before it learned from it, as the live version had, it must not be surely worse: the one-sided upper bound
    of the difference must not be below 0.

    Args:
        live, candidate: ``[n]`` scores in [0, 1], paired, of those events; may be empty.
    """
    if not verdict.accepted or verdict.difference is None:
        return verdict
    if verdict.difference < 0:
        reason = f"No gain that a new encoder would be worth: {verdict.reason.partition(': ')[2]}"
        return replace(verdict, accepted=False, reason=reason)
    lost = [a - b for a, b in zip(live, candidate, strict=True)]
    if lost and lower_bound(lost, confidence=verdict.confidence, scale="accuracy") > 0:
        mean = -math.fsum(lost) / len(lost)
        reason = f"Surely worse on what came since: {_shown(mean, 'accuracy')} on {len(lost)} events. {verdict.reason}"
        return replace(verdict, accepted=False, reason=reason)
    return verdict


def lower_bound(differences: Sequence[float], *, confidence: float, scale: Scale) -> float:
    """One-sided lower confidence bound of the mean of paired differences; formulas in the module's docstring.

    Args:
        differences: ``[n]``, finite, ``n >= 1``.
        confidence: in (0.5, 1).
        scale: ``accuracy`` differences lie in [-1, 1]. One ``loss`` alone bounds nothing: minus infinity.
    """
    if scale == "accuracy":
        padded = [*differences, 1.0, -1.0]
        mean = math.fsum(padded) / len(padded)
        variance = math.fsum((d - mean) ** 2 for d in padded) / len(padded)
        return mean - NormalDist().inv_cdf(confidence) * math.sqrt(variance / len(padded))
    n = len(differences)
    if n < 2:
        return -math.inf
    from scipy.special import stdtrit  # imported here: classification, which is nearly all use, does not need it

    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    return mean - float(stdtrit(n - 1, confidence)) * math.sqrt(variance / n)


def _worst(
    differences: Sequence[float], classes: Sequence[str] | None, floor: float, support: int, confidence: float
) -> _Fall | None:
    """The class that lost most; one that lost significantly more than the floor before any other."""
    if classes is None:
        return None
    count = Counter(classes)
    total: dict[str, float] = dict.fromkeys(count, 0.0)
    lost: Counter[str] = Counter()
    gained: Counter[str] = Counter()
    for name, difference in zip(classes, differences, strict=True):
        total[name] += difference
        lost[name] += difference < 0
        gained[name] += difference > 0
    falls = [
        _Fall(
            name,
            n,
            -total[name] / n,
            -total[name] / n > floor and _sign_test(lost[name], gained[name]) <= 1 - confidence,
        )
        for name, n in sorted(count.items())
        if n >= max(1, support)
    ]
    return max(falls, key=lambda fall: (fall.significant, fall.drop), default=None)


def _without_one(
    differences: Sequence[float], sources: Sequence[str], margin: float, support: int, confidence: float
) -> _Rest | None:
    """The source whose absence leaves the candidate worst off; one where the loss is significant before any other."""
    rests = []
    for name, count in sorted(Counter(sources).items()):
        others = [d for d, source in zip(differences, sources, strict=True) if source != name]
        if min(count, len(others)) < max(1, support):
            continue
        mean = math.fsum(others) / len(others)
        lost, gained = sum(d < 0 for d in others), sum(d > 0 for d in others)
        rests.append(_Rest(name, len(others), mean, mean < -margin and _sign_test(lost, gained) <= 1 - confidence))
    return max(rests, key=lambda rest: (rest.significant, -rest.difference), default=None)


def _sign_test(lost: int, gained: int) -> float:
    """``P(X >= lost)`` for ``X`` of ``lost + gained`` fair coins: the exact one-sided McNemar test (1947)."""
    changed = lost + gained
    return float(sum(math.comb(changed, k) for k in range(lost, changed + 1)) / 2**changed)


def _shown(value: float, scale: Scale) -> str:
    return f"{value * 100:+.1f} points" if scale == "accuracy" else f"{value:+.3f} nats"
