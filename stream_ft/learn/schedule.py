"""When a round starts, of what kind, and why not yet: one pure function whose reason an operator can read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from stream_ft.errors import ConfigError

Kind = Literal["", "head", "adapt"]
"""``head``: refit the head in closed form. ``adapt``: train the encoder. ``""``: none."""

LONGEST_BACK_OFF_S = 300.0
PATIENCE = 4
"""An encoder round that gained too little makes the next one wait so many times as long."""
MOST_PATIENCE = 64
EAGER = 0.5
"""One that gained makes the next one wait so many times as long."""
DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Flat copy of the schedule's settings, with their units and meanings (:class:`stream_ft.config.ScheduleSettings`).

    Raises:
        ConfigError: ``quiet_hours`` is neither empty nor ``HH-HH``.
    """

    interval_s: float
    min_new: int
    min_evaluation: int
    adapt_every: int
    adapt_first: int
    adapt_misjudged: int
    adapt_gain: float
    adapt_on_drift: bool
    adapt_after_drift: int
    quiet_hours: str
    budget_cpu_s_per_hour: float
    head_every: int = 0
    """New examples between two rounds of the head beside a fast tier; fewer at first: as many as half of all. 0: there
    is no fast tier."""

    def __post_init__(self) -> None:
        _hours(self.quiet_hours)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the decision depends on."""

    now: float
    """Seconds since the epoch, UTC."""
    new_examples: int
    """New or revised since the last round of any kind began."""
    evaluable: int
    """Holdout plus what the champion was not trained on."""
    since_last_round_s: float | None
    """Since the last round ended; ``None`` before the first."""
    total_examples: int
    examples_since_adapt: int
    misjudged_since_adapt: int
    """Answers that turned out wrong since the last encoder round began, or ever."""
    adapted: bool
    """Some encoder round has ended."""
    adapts_in_vain: int
    """Encoder rounds in a row that gained less than ``adapt_gain``; -1 if the last one gained it."""
    drift_pending: bool
    """An alarm has been answered neither by an encoder round nor by errors that fell again."""
    examples_since_drift: int
    train_now: bool
    """An operator has asked for a round."""
    paused: bool
    pinned: bool
    running: bool
    leading: bool
    cpu_s_last_hour: float
    consecutive_refusals: int


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Start a round of ``kind``, or wait. ``next_s``: seconds until time alone may change this; ``None``: it cannot."""

    start: bool
    kind: Kind
    reason: str
    next_s: float | None


def decide(facts: Facts, policy: Policy) -> Decision:
    """Start a round now, or say what it waits for. Pure.

    A command (``train_now``) overrides interval, back-off, quiet hours, budget and the number of new examples; nothing
    overrides a pause, a pin, another leader, a running round, or too few examples to judge by.
    """
    quiet_s = _quiet_left(facts.now, policy.quiet_hours)
    if facts.running:
        return _wait("A round is running.")
    if not facts.leading:
        return _wait("Another learner leads: this one stands by.")
    if facts.paused:
        return _wait("Learning is paused by an operator.")
    if facts.pinned:
        return _wait("The version is pinned by an operator.")

    kind, why = _wanted(facts, policy)
    if kind == "":
        return _wait(why)
    if (missing := policy.min_evaluation - facts.evaluable) > 0:
        return _wait(
            f"Waiting for {_examples(missing)} more to judge a round by:"
            f" {facts.evaluable} of {policy.min_evaluation} are there."
        )
    if not facts.train_now:
        if (left := _pause_s(facts, policy)) > 0:
            if facts.consecutive_refusals > 1:
                return _wait(
                    f"{facts.consecutive_refusals} rounds in a row brought no promotion:"
                    f" {_duration(left)} of back-off left.",
                    left,
                )
            return _wait(f"The last round has just ended: {_duration(left)} left of the interval.", left)
        if quiet_s > 0:
            return _wait(f"Quiet hours ({policy.quiet_hours} UTC): {_duration(quiet_s)} left.", quiet_s)
        if facts.cpu_s_last_hour >= policy.budget_cpu_s_per_hour:
            return _wait(
                f"The hour's budget is spent: {facts.cpu_s_last_hour:.0f} of {policy.budget_cpu_s_per_hour:.0f} s."
                " It comes back as older rounds leave the hour.",
                60.0,
            )
    return Decision(start=True, kind=kind, reason=why, next_s=None)


def _wanted(facts: Facts, policy: Policy) -> tuple[Kind, str]:
    """The kind of round that the examples call for, with the reason; or what is missing."""
    if facts.total_examples > 0:
        if facts.drift_pending and policy.adapt_on_drift and facts.examples_since_drift >= policy.adapt_after_drift:
            return (
                "adapt",
                f"Errors rose, and have not fallen in the {_examples(facts.examples_since_drift)} since the alarm.",
            )
        if (
            policy.adapt_every > 0
            and facts.total_examples >= policy.adapt_first
            and facts.examples_since_adapt >= _adapt_due(facts, policy)
            and facts.misjudged_since_adapt >= patience(facts.adapts_in_vain) * policy.adapt_misjudged
        ):
            return (
                "adapt",
                f"{_examples(facts.examples_since_adapt)} since the encoder was last trained,"
                f" and {facts.misjudged_since_adapt} answers that were wrong.",
            )
        if facts.train_now:
            return "head", "An operator asked for a round."
    if facts.total_examples == 0:
        return "", "Waiting for the first examples."
    needed = max(policy.min_new, min(policy.head_every, facts.total_examples // 2))
    if (missing := needed - facts.new_examples) > 0:
        return "", f"Waiting for {missing} more example{'s' if missing != 1 else ''}."
    return "head", f"{_examples(facts.new_examples)} new or revised."


def patience(adapts_in_vain: int) -> float:
    """How many times the usual an encoder round waits for, after so many in a row that gained too little.

    After one that gained, half: where training the encoder pays, there is often more to gain.
    """
    return EAGER if adapts_in_vain < 0 else float(min(PATIENCE ** min(adapts_in_vain, 10), MOST_PATIENCE))


def _adapt_due(facts: Facts, policy: Policy) -> int:
    """The first encoder round comes earlier than the others: nothing has been learned by the encoder yet."""
    if not facts.adapted:
        return min(policy.adapt_every, policy.adapt_first)
    return round(patience(facts.adapts_in_vain) * policy.adapt_every)


def _pause_s(facts: Facts, policy: Policy) -> float:
    """Seconds left of the interval, which doubles with each refusal or failure in a row after the first."""
    if facts.since_last_round_s is None:
        return 0.0
    pause = policy.interval_s
    if facts.consecutive_refusals > 1:
        doublings = min(facts.consecutive_refusals - 1, 20)
        pause = max(pause, min(LONGEST_BACK_OFF_S, max(pause, 1.0) * 2**doublings))
    return pause - facts.since_last_round_s


def _hours(quiet: str) -> tuple[int, int] | None:
    """``HH-HH`` as hours; ``None`` when there are no quiet hours."""
    if not quiet.strip():
        return None
    match = re.fullmatch(r"\s*(\d{1,2})\s*-\s*(\d{1,2})\s*", quiet)
    if match is None or int(match[1]) > 24 or int(match[2]) > 24:
        raise ConfigError(
            f"Quiet hours are given as HH-HH in UTC, not as {quiet!r}.", "Write 22-06, or nothing for no quiet hours."
        )
    return int(match[1]), int(match[2])


def _quiet_left(now: float, quiet: str) -> float:
    """Seconds until the quiet hours end; 0 outside them. ``22-06`` goes over midnight, ``00-24`` is always."""
    hours = _hours(quiet)
    if hours is None:
        return 0.0
    start, end = hours
    length = (end - start) * 3600.0 if end >= start else (end - start + 24) * 3600.0
    since = (now - start * 3600.0) % DAY_S
    return length - since if since < length else 0.0


def _wait(reason: str, next_s: float | None = None) -> Decision:
    return Decision(start=False, kind="", reason=reason, next_s=next_s)


def _examples(count: int) -> str:
    return f"{count} example{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{math.ceil(whole / 60)} min" if whole < 7200 else f"{whole / 3600:.1f} h"
