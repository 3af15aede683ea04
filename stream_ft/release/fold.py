"""Which version is active: a pure fold over the control log.

No process decides alone. Every one of them folds the same messages in the same order and comes to the same state; a
message whose condition does not hold is refused with a reason, and changes nothing but the list of ids seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, NamedTuple

from stream_ft import control
from stream_ft.control import Malformed, Message
from stream_ft.release.grown import Chain, Register


class Release(NamedTuple):
    """A base and the head it starts with, each named by its sha256."""

    base: str
    start_head: str


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """Examples that must not train: those of ``source`` (``None``: any) in ``[since, until]`` (``None``: open)."""

    source: str | None
    since: float | None
    until: float | None
    """Seconds since the epoch."""


TRIAL = "trial-"
"""How the names of versions on trial begin; those that were in force begin otherwise."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A challenger beside the champion: it scores or answers a share of the requests."""

    kind: Literal["shadow", "canary"]
    base: str
    start_head: str
    share: float
    offset: int
    """Of the message that began it. A later one that changes only the kind or the share leaves it, and so the name."""

    @property
    def release(self) -> Release:
        """The challenger's."""
        return Release(self.base, self.start_head)

    @property
    def version(self) -> str:
        """``trial-{offset}``: a number it gets only by a promotion, and an offset has one content for ever."""
        return f"{TRIAL}{self.offset}"


@dataclass(frozen=True, kw_only=True)
class State:
    """What the control log says so far. Immutable; the collections share their memory with the states before."""

    log_id: str = ""
    """Empty until the genesis."""
    offset: int = -1
    """Of the last message folded."""
    epoch: int = -1
    """Grows by one with every accepted lead, promotion, rollback and denial of the active base. 0 at the genesis."""
    leader: str | None = None
    """``learner/NAME``, or nobody."""
    base: str = ""
    start_head: str = ""
    pinned: bool = False
    paused: bool = False
    denied: Register = field(default_factory=Register)
    """Bases that must not be active, with the epoch in which each was denied."""
    history: Chain[tuple[int, Release]] = field(default_factory=Chain)
    """One release for every epoch, ascending, the active one last."""
    numbers: Register = field(default_factory=Register)
    """Of every base that ever was active, the epoch in which it first was."""
    ids: Register = field(default_factory=Register)
    """Of every message seen, accepted or refused, with its offset."""
    quarantines: tuple[Quarantined, ...] = ()
    labels_added: tuple[str, ...] = ()
    train_now: int = 0
    """How often a round was asked for."""
    trial: Trial | None = None
    """The challenger that is tried, if any. Its base is never denied, and its release never the active one."""

    @property
    def release(self) -> Release:
        """The active one."""
        return Release(self.base, self.start_head)

    @property
    def version(self) -> str:
        """``v{base number}.{epoch}.0``; empty before the genesis."""
        return f"v{self.numbers[self.base]}.{self.epoch}.0" if self.log_id else ""


INITIAL = State()
"""Before the first message."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One record of the control log. Offsets ascend."""

    offset: int
    appended_at: float | None
    """Seconds since the epoch. Without one the message is refused: nobody could tell whether it had expired."""
    value: bytes


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a message."""

    accepted: bool
    reason: str
    """Why it was refused, one sentence; empty if it was accepted."""
    message: Message | None
    """``None`` if it could not be read."""
    id: str | None


def fold(state: State, entry: Entry) -> tuple[State, Verdict]:
    """The state after one more message, and what became of it.

    Pure; raises nothing. An entry at or before ``state.offset`` was folded already and leaves the state as it is.
    """
    message = control.decode(entry.value)
    if entry.offset <= state.offset:
        reason = f"Offset {entry.offset} was folded already."
        return state, Verdict(
            accepted=False, reason=reason, message=None if isinstance(message, Malformed) else message, id=message.id
        )
    first = state.offset < 0
    seen = None if message.id is None else state.ids.get(message.id)
    ids = state.ids if message.id is None else state.ids.plus(message.id, entry.offset)
    state = replace(state, offset=entry.offset, ids=ids)
    if isinstance(message, Malformed):
        return state, Verdict(accepted=False, reason=message.reason, message=None, id=message.id)
    if seen is not None:
        outcome: State | str = f"Its id was seen before, at offset {seen}."
    elif entry.appended_at is None:
        outcome = "It has no append time."
    elif message.expires_at is not None and message.expires_at.timestamp() < entry.appended_at:
        outcome = f"It expired at {message.expires_at.isoformat()}, before it was appended."
    elif isinstance(message, control.Genesis):
        outcome = _genesis(state, message) if first else "A genesis must be the first message of its log."
    elif not state.log_id:
        outcome = "The log does not begin with a genesis."
    else:
        outcome = _RULES[type(message)](state, message)
        if isinstance(outcome, State) and _is_over(outcome, state):
            outcome = replace(outcome, trial=None)
    if isinstance(outcome, str):
        return state, Verdict(accepted=False, reason=outcome, message=message, id=message.id)
    return outcome, Verdict(accepted=True, reason="", message=message, id=message.id)


# Every rule returns the next state, or the reason for a refusal.


def _genesis(state: State, message: control.Genesis) -> State:
    release = Release(message.base, message.start_head)
    return _activate(replace(state, log_id=message.log_id), release)


def _lead(state: State, message: control.Lead) -> State | str:
    if _is_operator(message):
        return "Only a learner leads."
    if overtaken := _overtaken(state, message.expected_epoch):
        return overtaken
    return replace(_activate(state, state.release), leader=message.issued_by)


def _promote(state: State, message: control.Promote) -> State | str:
    if overtaken := _overtaken(state, message.expected_epoch):
        return overtaken
    if message.parent != state.base:
        return f"Its parent {message.parent[:12]} is not the active base {state.base[:12]}."
    if message.base in state.denied:
        return f"Base {message.base[:12]} is denied since epoch {state.denied[message.base]}."
    if not _is_operator(message) and (hindrance := _hindrance(state, message)):
        return hindrance
    return _activate(state, Release(message.base, message.start_head))


def _rollback(state: State, message: control.Rollback) -> State | str:
    if message.to_epoch > state.epoch:
        return f"Epoch {message.to_epoch} is not in the history, which ends at {state.epoch}."
    if message.to_epoch == state.epoch and message.checkpoint is None:
        return f"Epoch {message.to_epoch} is the current one."
    release = state.history[message.to_epoch][1]
    if release.base in state.denied:
        return f"The base of epoch {message.to_epoch} is denied since epoch {state.denied[release.base]}."
    if not _is_operator(message):
        if not message.automatic:
            return "A learner may only roll back automatically."
        if message.expected_epoch is None:
            return "An automatic rollback must name the epoch it expects."
        if overtaken := _overtaken(state, message.expected_epoch):
            return overtaken
        if hindrance := _hindrance(state, message):
            return hindrance
    left = state.base
    state = _activate(state, Release(release.base, message.checkpoint or release.start_head))
    if left != release.base:
        state = replace(state, denied=state.denied.plus(left, state.epoch))
    if (quarantined := _quarantined(message.quarantine)) is not None:
        state = replace(state, quarantines=(*state.quarantines, quarantined))
    return state


def _deny(state: State, message: control.Deny) -> State | str:
    if not _is_operator(message):
        return "Only an operator denies."
    # The active base is never denied, so a search is only needed when it is the one to go.
    if message.sha256 != state.base:
        return replace(state, denied=state.denied.plus(message.sha256, state.epoch))
    for _, release in reversed(state.history):
        if release.base != message.sha256 and release.base not in state.denied:
            state = _activate(state, release)
            return replace(state, denied=state.denied.plus(message.sha256, state.epoch))
    return "No release with another base that is not denied would be left."


def _pin(state: State, message: control.Pin) -> State | str:
    return replace(state, pinned=True) if _is_operator(message) else "Only an operator pins."


def _unpin(state: State, message: control.Unpin) -> State | str:
    return replace(state, pinned=False) if _is_operator(message) else "Only an operator unpins."


def _pause(state: State, message: control.Pause) -> State | str:
    return replace(state, paused=True) if _is_operator(message) else "Only an operator pauses."


def _resume(state: State, message: control.Resume) -> State | str:
    return replace(state, paused=False) if _is_operator(message) else "Only an operator resumes."


def _train_now(state: State, message: control.TrainNow) -> State | str:
    if not _is_operator(message):
        return "Only an operator asks for a round."
    return replace(state, train_now=state.train_now + 1)


def _label_add(state: State, message: control.LabelAdd) -> State | str:
    if not _is_operator(message):
        return "Only an operator adds a label."
    if message.label in state.labels_added:
        return state
    return replace(state, labels_added=(*state.labels_added, message.label))


def _erase(state: State, message: control.Erase) -> State | str:
    return state if _is_operator(message) else "Only an operator erases."


def _trial(state: State, message: control.Shadow | control.Canary) -> State | str:
    if not (_is_operator(message) or message.issued_by == state.leader):
        return "Only an operator or the leader starts a trial."
    if not message.share:
        return replace(state, trial=None)
    if message.base is None or message.start_head is None:
        return state
    release = Release(message.base, message.start_head)
    if release.base in state.denied:
        return f"Base {release.base[:12]} is denied since epoch {state.denied[release.base]}."
    if release == state.release:
        return "It is in force already."
    running = state.trial
    trial = Trial(
        kind="shadow" if isinstance(message, control.Shadow) else "canary",
        base=release.base,
        start_head=release.start_head,
        share=message.share,
        offset=running.offset if running is not None and running.release == release else state.offset,
    )
    return replace(state, trial=trial)


def _is_over(state: State, before: State) -> bool:
    """Whether the trial has ended with this message: its base was denied, or came into force."""
    trial = state.trial
    if trial is None:
        return False
    came = state.base == trial.base != before.base or state.release == trial.release
    return came or trial.base in state.denied


_RULES: dict[type, Callable[..., State | str]] = {
    control.Lead: _lead,
    control.Promote: _promote,
    control.Rollback: _rollback,
    control.Deny: _deny,
    control.Pin: _pin,
    control.Unpin: _unpin,
    control.Pause: _pause,
    control.Resume: _resume,
    control.TrainNow: _train_now,
    control.LabelAdd: _label_add,
    control.Erase: _erase,
    control.Shadow: _trial,
    control.Canary: _trial,
}


def _activate(state: State, release: Release) -> State:
    """The next epoch, with this release."""
    epoch = state.epoch + 1
    return replace(
        state,
        epoch=epoch,
        base=release.base,
        start_head=release.start_head,
        history=state.history.plus((epoch, release)),
        numbers=state.numbers.plus(release.base, epoch),
    )


def _is_operator(message: control.Command) -> bool:
    return message.issued_by.startswith("operator/")


def _overtaken(state: State, expected: int) -> str:
    return "" if expected == state.epoch else f"It expects epoch {expected}; the epoch is {state.epoch}."


def _hindrance(state: State, message: control.Command) -> str:
    """Why a learner may not change the release; empty if it may."""
    if message.issued_by != state.leader:
        return f"{message.issued_by} does not lead; {state.leader or 'nobody'} does."
    if state.paused:
        return "Learning is paused."
    return "The version is pinned." if state.pinned else ""


def _quarantined(quarantine: control.Quarantine | None) -> Quarantined | None:
    if quarantine is None:
        return None
    found = Quarantined(source=quarantine.source, since=_seconds(quarantine.since), until=_seconds(quarantine.until))
    # All open would quarantine every example there is and will be: surely a slip, and it cannot be undone.
    return None if (found.source, found.since, found.until) == (None, None, None) else found


def _seconds(moment: float | datetime | None) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime) else moment
