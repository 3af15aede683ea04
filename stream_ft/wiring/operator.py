"""What an operator's command needs: the control log folded up to now, one message appended, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass

from stream_ft import control
from stream_ft.clock import SystemClock
from stream_ft.config import Settings
from stream_ft.errors import ArtifactError, ConfigError, StreamFTError
from stream_ft.events import to_json
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release.fold import INITIAL, Entry, Release, State, Verdict, fold
from stream_ft.release.registry import Registry
from stream_ft.topics import topic
from stream_ft.wiring.broker import open_event_log

READ = 500
SERVED = "serve.state"
"""File in which a server keeps how it last folded the log."""
DIGITS = re.compile(r"[0-9a-f]{8,64}")
VERSION = re.compile(r"v\d+\.(\d+)\.\d+")


@dataclass(frozen=True, kw_only=True)
class Folded:
    """The control log up to some offset."""

    state: State
    verdicts: dict[str, Verdict]
    """By message id, the first verdict only: a second arrival of an id is a duplicate."""
    gone: frozenset[int] = frozenset()
    """Epochs of the history whose files the registry has no more."""
    bases: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()
    """What the registry has."""

    def name(self, epoch: int) -> str:
        """Name of the version that an epoch of the history put into force."""
        return f"v{self.state.numbers[self.state.history[epoch][1].base]}.{epoch}.0"


@dataclass(frozen=True, kw_only=True)
class Issued:
    """What became of a command."""

    accepted: bool
    reason: str
    """Why it was refused; empty if it was accepted."""
    remedy: str
    """What the operator can do about a refusal; empty if nothing is known to help."""
    before: Folded
    after: Folded


def read(log: EventLog, model: str, registry: Registry | None = None) -> Folded:
    """Fold the whole control log of ``model``, and see in ``registry`` what of its history is gone."""
    name = topic(model, "control")
    state = INITIAL
    verdicts: dict[str, Verdict] = {}
    offset, end = log.bounds(name, 0)
    while offset < end and (records := log.read(name, 0, offset, READ)):
        for record in records:
            state, verdict = fold(
                state, Entry(offset=record.offset, appended_at=record.appended_at, value=record.value)
            )
            if verdict.id:
                verdicts.setdefault(verdict.id, verdict)
        offset = records[-1].offset + 1
    if registry is None:
        return Folded(state=state, verdicts=verdicts)
    bases, heads = frozenset(registry.list()), frozenset(registry.list_heads())
    gone = frozenset(
        epoch for epoch, release in state.history if release.base not in bases or release.start_head not in heads
    )
    return Folded(state=state, verdicts=verdicts, gone=gone, bases=bases, heads=heads)


def look(settings: Settings) -> Folded:
    """The control log of these settings, folded.

    Raises:
        StreamFTError: nothing was ever started there.
    """
    log = _open(settings)
    try:
        return _started(read(log, settings.model.name, _registry(settings)), settings)
    finally:
        log.close()


def issue(settings: Settings, make: Callable[[Folded, float], control.Message], id: str | None = None) -> Issued:
    """Append one message and fold it, as every replica will.

    Args:
        settings: which log, and who issues (``operator``).
        make: from the folded log and the time of now, the message; what it raises is raised before anything is
            appended.
        id: that of the message, if whoever commands gave one. If the log has it already, nothing is appended, and what
            became of that message is told: what ``make`` would say now may differ (``previous`` is another version).

    Raises:
        ConfigError: it would put a version into force whose files are gone or damaged; nothing is appended.
        StreamFTError: nothing was ever started there.
    """
    log = _open(settings)
    try:
        registry = _registry(settings)
        before = _started(read(log, settings.model.name, registry), settings)
        if id is not None and (known := before.verdicts.get(id)) is not None:
            return Issued(accepted=known.accepted, reason=known.reason, remedy="", before=before, after=before)
        now = SystemClock().now()
        message = make(before, now)
        _check_can_be_had(before, message, registry, now)
        log.append([Outgoing(topic=topic(settings.model.name, "control"), value=to_json(message))])
        after = read(log, settings.model.name)
    finally:
        log.close()
    verdict = after.verdicts[message.id]
    remedy = "" if verdict.accepted else _remedy(before, message)
    return Issued(accepted=verdict.accepted, reason=verdict.reason, remedy=remedy, before=before, after=after)


def _remedy(before: Folded, message: control.Message) -> str:
    if isinstance(message, control.Rollback):
        return can_be_had(before)
    return can_be_tried(before) if isinstance(message, control.Canary | control.Shadow) else ""


def target(folded: Folded, to: str) -> int:
    """The epoch that ``to`` means: a number, a version's name, or ``previous``.

    ``previous`` is what was in force before the present release first came; given twice it goes further back, not to
    what was just left.

    Raises:
        ConfigError: nothing has that name, or nothing came before. The remedy lists what can be had.
    """
    state = folded.state
    if to == "previous":
        first = next(epoch for epoch, release in state.history if release == state.release)
        earlier = [
            epoch
            for epoch, release in state.history
            if epoch < first
            and release.base not in state.denied
            and release != state.release
            and epoch not in folded.gone
        ]
        if not earlier:
            raise ConfigError(
                f"There is no version before {state.version} to go back to.",
                "Every earlier one is denied, is gone, or has the same base and head.",
            )
        return earlier[-1]
    if to.isascii() and to.isdigit() and len(to) < 10:
        return int(to)
    match = VERSION.fullmatch(to)
    if match is None or int(match[1]) > state.epoch or folded.name(int(match[1])) != to:
        raise ConfigError(f"{to} is no epoch, no version of this log, and not `previous`.", can_be_had(folded))
    return int(match[1])


def can_be_had(folded: Folded, *, but: str = "") -> str:
    """The versions that a rollback can go back to, newest first, one sentence; none of the base ``but``."""
    state = folded.state
    names = [
        folded.name(epoch)
        for epoch, release in reversed(state.history)
        if epoch < state.epoch and release.base not in state.denied and release.base != but and epoch not in folded.gone
    ]
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} older" if len(names) > 20 else "")
    return f"Can be had: {shown}." if names else "None can be had."


def challenger(folded: Folded, name: str, head: str = "") -> Release:
    """The release to try: a version, an epoch, or a base by eight digits of its hash or more.

    Args:
        folded: with what the registry has.
        name: what the operator wrote.
        head: eight digits of a head's hash or more; without it, the newest that was in force on that base.

    Raises:
        ConfigError: nothing has that name. The remedy lists what can be tried.
    """
    history = folded.state.history
    if not DIGITS.fullmatch(name.lower()):
        epoch = target(folded, name)
        if epoch > folded.state.epoch:
            raise ConfigError(f"There is no epoch {name} yet.", can_be_tried(folded))
        release = history[epoch][1]
    else:
        base = _only(name, folded.bases | {release.base for _, release in history}, "base", folded)
        newest = next((release for _, release in reversed(history) if release.base == base), None)
        if newest is None and not head:
            raise ConfigError(f"Base {base[:12]} was never in force, so its head must be named.", "Give it by --head.")
        release = newest or Release(base, "")
    if head:
        release = Release(
            release.base, _only(head, folded.heads | {release.start_head for _, release in history}, "head", folded)
        )
    return release


def can_be_tried(folded: Folded) -> str:
    """The versions that can be put on trial, newest first, and bases that were never in force; one sentence."""
    state = folded.state
    names: dict[Release, str] = {}
    for epoch, release in reversed(state.history):
        if release not in names and release != state.release and release.base not in state.denied:
            names[release] = "" if epoch in folded.gone else folded.name(epoch)
    known = [name for name in names.values() if name]
    known += sorted(base[:12] for base in folded.bases if base not in state.numbers and base not in state.denied)
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    return f"Can be tried: {shown}." if known else "None can be tried."


def _only(prefix: str, known: Set[str], what: str, folded: Folded) -> str:
    """The one hash in ``known`` that starts with ``prefix``."""
    found = sorted(sha for sha in known if sha.startswith(prefix.lower()))
    if not DIGITS.fullmatch(prefix.lower()) or len(found) != 1:
        raise ConfigError(f"{prefix!r} names {len(found) if found else 'no'} {what} here.", can_be_tried(folded))
    return found[0]


def _check_can_be_had(folded: Folded, message: control.Message, registry: Registry, now: float) -> None:
    """What is accepted is loaded by every replica, so it must be there before the command is given.

    Raises:
        ConfigError: it is not. The remedy lists what can be had.
    """
    before = folded.state
    # The log's own rule says what would come; another message may still come between, and then replicas fall back.
    after, verdict = fold(before, Entry(offset=before.offset + 1, appended_at=now, value=to_json(message)))
    trial = after.trial if after.trial != before.trial else None
    if not verdict.accepted or (after.release == before.release and trial is None):
        return
    release = after.release if trial is None else trial.release
    try:
        registry.get_head(release.start_head)
        registry.get(release.base)
    except ArtifactError as error:
        if trial is not None:
            raise ConfigError(f"It cannot be tried: {_lowered(error.message)}", can_be_tried(folded)) from error
        named = (folded.name(epoch) for epoch, release in reversed(before.history) if release == after.release)
        what = f"{next(named, after.version)} would come into force, but {_lowered(error.message)}"
        if isinstance(message, control.Deny):
            can = can_be_had(folded, but=message.sha256)
            raise ConfigError(what, f"Roll back first, which denies the base that is left. {can}") from error
        raise ConfigError(what, can_be_had(folded)) from error


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _registry(settings: Settings) -> Registry:
    return Registry(settings.registry_path())


def _open(settings: Settings) -> EventLog:
    state = settings.state_path()
    if not state.is_dir():
        raise ConfigError(
            f"There is no state folder {state}.", "Name it with --state-dir, or start stream-ft up first."
        )
    return open_event_log(settings, writes=[])


def _started(folded: Folded, settings: Settings) -> Folded:
    if not folded.state.log_id:
        if (settings.state_path() / SERVED).exists():
            raise StreamFTError(
                f"A server has followed a control log here, and none of model {settings.model.name} is left.",
                "If that is the right name, bring the log back: control.db of the state folder, or the broker's topic."
                " If it was exchanged on purpose: stop everything, stream-ft reset, start again.",
            )
        raise StreamFTError(
            f"Nothing was ever started for model {settings.model.name} in {settings.state_path()}.",
            "Start stream-ft up first.",
        )
    return folded
