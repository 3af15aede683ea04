"""An operator's commands, one function each: what the command line and :class:`stream_ft.client.Control` both give.

Each checks what it is told, appends one message to the control log and returns what became of it. Given twice under one
``id``, a command counts once, and the second time tells what became of the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from stream_ft import control
from stream_ft.config import Settings
from stream_ft.errors import ConfigError
from stream_ft.wiring.operator import Folded, Issued, can_be_tried, challenger, issue, target

REASON = "commanded"
"""Why, unless the operator says."""
WRITE_A_TIME = "Write 2026-01-31T12:00:00Z, or seconds since the epoch."


def rollback(
    settings: Settings,
    *,
    to: str = "previous",
    reason: str = REASON,
    quarantine_source: str | None = None,
    quarantine_since: str | float | datetime | None = None,
    id: str | None = None,
) -> Issued:
    """Bring an earlier version back at once; the base that is left cannot return by itself.

    Args:
        settings: which log, and who commands (``operator``).
        to: an epoch, a version's name, or ``previous``.
        reason: stays on the log.
        quarantine_source, quarantine_since: examples of this source, or since this time, train no more.
        id: of the message. Default: a fresh one.

    Raises:
        ConfigError: an argument cannot be used, or the version cannot be had; nothing is appended.
        StreamFTError: nothing was ever started there.
    """
    quarantine: dict[str, Any] | None = None
    if quarantine_source is not None or quarantine_since is not None:
        quarantine = {"source": quarantine_source, "since": _seconds(quarantine_since)}
    return _give(
        settings,
        control.Rollback,
        lambda folded: {"to_epoch": target(folded, to), "reason": reason, "quarantine": quarantine},
        id,
    )


def deny(settings: Settings, sha256: str, *, reason: str = REASON) -> Issued:
    """Forbid a base for ever; if it is active, the latest one that is not denied comes back.

    Args:
        sha256: of the base; the first 8 digits do.

    Raises:
        ConfigError: no base has that name, or what would come back cannot be had; nothing is appended.
        StreamFTError: nothing was ever started there.
    """

    def fields(folded: Folded) -> dict[str, Any]:
        return {"sha256": _whole(sha256, {release.base for _, release in folded.state.history}), "reason": reason}

    return _give(settings, control.Deny, fields)


def label_add(settings: Settings, label: str, *, id: str | None = None) -> Issued:
    """Allow users to introduce a label.

    Raises:
        ConfigError: it cannot be a label; nothing is appended.
        StreamFTError: nothing was ever started there.
    """
    return _give(settings, control.LabelAdd, lambda _: {"label": label}, id)


def canary(settings: Settings, version: str = "", *, share: float, head: str = "", id: str | None = None) -> Issued:
    """Let another version answer a share of the users, always the same ones.

    Args:
        version: a version's name, an epoch, or a base, eight digits of its hash; ``""`` with ``share`` 0 ends a trial.
        share: of the keys, 0 to 1.
        head: sha256 of another head than the base's newest.
        id: of the message. Default: a fresh one.

    Raises:
        ConfigError: there is no such version, or no trial to end; nothing is appended.
        StreamFTError: nothing was ever started there.
    """
    return _give(settings, control.Canary, _tried(version, head, share), id)


def shadow(
    settings: Settings, version: str = "", *, share: float = 1.0, head: str = "", id: str | None = None
) -> Issued:
    """Let another version score a share of the requests; its answers are compared and not used.

    Arguments and errors as :func:`canary`.
    """
    return _give(settings, control.Shadow, _tried(version, head, share), id)


def _tried(version: str, head: str, share: float) -> Callable[[Folded], dict[str, Any]]:
    """The fields of a trial's message."""

    def fields(folded: Folded) -> dict[str, Any]:
        running = folded.state.trial
        if version:
            base, start_head = challenger(folded, version, head)
        elif share:
            raise ConfigError("Say which version is to be tried.", can_be_tried(folded))
        elif running is None:
            raise ConfigError("No trial runs, so there is none to end.")
        else:
            base, start_head = running.release
        return {"base": base, "start_head": start_head, "share": share}

    return fields


def plain(
    settings: Settings,
    kind: type[control.Pin] | type[control.Unpin] | type[control.Pause] | type[control.Resume] | type[control.TrainNow],
    *,
    id: str | None = None,
) -> Issued:
    """A command that says nothing but itself.

    Raises:
        StreamFTError: nothing was ever started there.
    """
    return _give(settings, kind, lambda _: {}, id)


def _give(
    settings: Settings,
    kind: type[control.Command],
    fields: Callable[[Folded], dict[str, Any]],
    id: str | None = None,
) -> Issued:
    named = {} if id is None else {"id": id}

    def make(folded: Folded, now: float) -> control.Message:
        try:
            message: control.Message = control.new(  # type: ignore[assignment]  # a Command, but no member of the union
                kind, by=f"operator/{settings.operator}", now=now, **named, **fields(folded)
            )
        except msgspec.ValidationError as error:
            raise ConfigError(f"The command cannot be issued: {error}.") from error
        return message

    return issue(settings, make, id)


def _whole(prefix: str, known: set[str]) -> str:
    """The one hash in ``known`` that starts with ``prefix``. A whole hash is taken as it is: the log judges it."""
    prefix = prefix.strip().lower()
    if len(prefix) == 64:
        return prefix
    found = sorted(sha for sha in known if sha.startswith(prefix))
    if len(prefix) < 8 or len(found) != 1:
        raise ConfigError(
            f"{prefix!r} names {len(found) if len(prefix) >= 8 else 'no'} base of the history.",
            "See stream-ft adapters list.",
        )
    return found[0]


def _seconds(moment: str | float | datetime | None) -> float | None:
    """RFC 3339, a time with its offset, or seconds since the epoch, as seconds since the epoch."""
    if moment is None:
        return None
    if isinstance(moment, datetime):
        found = moment
    else:
        try:
            seconds = float(moment)
        except ValueError:
            pass
        else:
            if math.isfinite(seconds):
                return seconds
            raise ConfigError(f"{moment} is not a time.", WRITE_A_TIME)
        try:
            found = datetime.fromisoformat(str(moment))
        except ValueError as error:
            raise ConfigError(f"{moment} is not a time.", WRITE_A_TIME) from error
    if found.tzinfo is None:
        raise ConfigError(f"{moment} has no offset from UTC.", "Write 2026-01-31T12:00:00Z.")
    return found.timestamp()
