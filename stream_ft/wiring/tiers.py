"""Which head answers in the learner: that of the release in force, or the newest that its fast tier published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stream_ft import control
from stream_ft.model.mixture import AnyHead
from stream_ft.release.fold import Quarantined, State, Verdict
from stream_ft.wiring.fast import CHUNK, Fast

MOST_AHEAD = 1_024
"""Lessons learned before an epoch begins: more than there are between two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the fast tier did, and what it wants said on the control log.

    Attributes:
        learned: lessons.
        breach: the guard found it worse than its checkpoint: a rollback to that.
    """

    learned: int = 0
    breach: control.Rollback | None = None


class Tiers:
    """The release's own head, and the fast tier's where there is one.

    Args:
        fast: the fast tier, if there is to be one.
        start: the head before any release.
        issuer: the learner's name on the control log.
    """

    def __init__(self, fast: Fast | None, *, start: AnyHead, issuer: str) -> None:
        self.fast = fast
        self.head = start
        """That answers."""
        self.version = ""
        """Its name."""
        self.examples_upto = 0
        """What it has learned."""
        self.built: tuple[str, bytes] | None = None
        """The base that is being promoted, and the fast tier that its round has built."""
        self._issuer = issuer
        self._start = start
        self._start_upto = 0
        self._rolled_back = -1
        self._quarantined: dict[Quarantined, int] = {}
        """In which epoch each came."""
        self._blamed: Quarantined | None = None
        self._breached: tuple[int, str] = (-1, "")

    def began(self, previous: State, state: State, verdict: Verdict) -> None:
        """A message was folded."""
        if isinstance(verdict.message, control.Rollback | control.Deny) and state.epoch > previous.epoch:
            self._rolled_back = state.epoch
            target = verdict.message.to_epoch if isinstance(verdict.message, control.Rollback) else state.epoch
            for each in (added := state.quarantines[len(previous.quarantines) :]):
                self._quarantined.setdefault(each, state.epoch)
            # What was in quarantine already in the version gone back to is not what this rollback is for.
            self._blamed = next((each for each in added if self._quarantined[each] > target), None)

    def loaded(self, head: AnyHead, examples_upto: int) -> None:
        """A release's own head was loaded."""
        self._start, self._start_upto = head, examples_upto

    def choose(self, state: State) -> None:
        """The version in force is that of ``state``, whose own head was loaded."""
        chosen = None
        if self.fast is not None and state.base:
            base, built = self.built or ("", None)
            self.built = None
            self.fast.follow(
                state,
                rolled_back=self._rolled_back,
                examples_upto=self._start_upto,
                built=built if base == state.base else None,
                blamed=self._blamed,
            )
            chosen = self.fast.in_force(state)
        self.head = self._start if chosen is None else chosen.head
        self.version = state.version if chosen is None else chosen.version
        self.examples_upto = self._start_upto if chosen is None else chosen.examples_upto

    def ahead(self, state: State, now: float, *, start_head: str = "") -> None:
        """Let the epoch that a message is about to begin, on the same base, begin with the head of now."""
        if self.fast is not None:
            for _ in range(MOST_AHEAD // CHUNK):  # what was not in a checkpoint yet is in this head
                if not self.fast.learn(CHUNK):
                    break
            self.fast.publish(state, leader=self._issuer, now=now, ahead=True, start_head=start_head)

    def heads(self) -> set[str]:
        """Heads of checkpoints, by which a rollback of the fast tier names them."""
        return set() if self.fast is None else self.fast.heads()

    def freshen(self, state: State, now: float, *, leading: bool, limit: int = CHUNK) -> Step:
        """Learn up to ``limit`` of what waits, and let the newest head answer.

        Args:
            state: whose version is in force.
            leading: this learner leads, in this very state.
        """
        if self.fast is None or not state.base:
            return Step()
        learned = self.fast.learn(limit)
        breach = None
        if leading and not (state.pinned or state.paused) and self.fast.due(now):
            breach = self._publish(self.fast, state, now)
        if leading and (state.pinned or state.paused):
            self.fast.hold(state)
        # Who stands by keeps its state, too: the lessons behind it are forgotten.
        if breach is None:
            self.fast.keep(state, now)
        return Step(learned=learned, breach=breach)

    def _publish(self, fast: Fast, state: State, now: float) -> control.Rollback | None:
        verdict = fast.judged(now)
        if verdict.accepted:
            if fast.publish(state, leader=self._issuer, now=now):
                self.choose(state)
            return None
        if self._breached == (state.epoch, fast.checkpoint):
            return None
        self._breached = (state.epoch, fast.checkpoint)
        return control.new(
            control.Rollback,
            by=self._issuer,
            now=now,
            to_epoch=state.epoch,
            expected_epoch=state.epoch,
            automatic=True,
            checkpoint=fast.best(verdict.source),
            reason=verdict.reason,
        )


def built_tier(base: str, folder: Path) -> tuple[str, bytes] | None:
    """A base, and the checkpoint of its fast tier that a round left in its folder, if it did."""
    path = folder / "tier.safetensors"
    return (base, path.read_bytes()) if path.exists() else None
