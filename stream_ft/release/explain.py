"""The audit of a control log: its messages, one JSON object a line, folded again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from stream_ft.control import Moment
from stream_ft.release.fold import INITIAL, Entry, Trial, fold


class _Stamp(Struct):
    appended_at: Moment


_stamp = msgspec.json.Decoder(_Stamp)


def explain(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What became of each message, and the state after it.

    Args:
        lines: one message each, with ``appended_at`` (RFC 3339) added. Blank ones are skipped; the first of the others
            has offset 0. A line that cannot be read is a refused message. Read a file with
            ``errors="surrogateescape"``: bytes that are not UTF-8 are then refused as they are on the log.

    Yields:
        ``offset, id, accepted, reason, epoch, leader, base, start_head, version, pinned, paused, denied, trial``;
        ``denied`` sorted, ``trial`` an object of ``kind, version, base, start_head, share`` or ``None``. What is not
        known before the genesis is ``None``.
    """
    state = INITIAL
    offset = 0
    for line in lines:
        if not line.strip():
            continue
        value = _bytes(line)
        state, verdict = fold(state, Entry(offset=offset, appended_at=_appended_at(value), value=value))
        begun = bool(state.log_id)
        yield {
            "offset": offset,
            "id": verdict.id,
            "accepted": verdict.accepted,
            "reason": verdict.reason,
            "epoch": state.epoch if begun else None,
            "leader": state.leader,
            "base": state.base or None,
            "start_head": state.start_head or None,
            "version": state.version or None,
            "pinned": state.pinned,
            "paused": state.paused,
            "denied": sorted(state.denied),
            "trial": None if state.trial is None else _told(state.trial),
        }
        offset += 1


def _told(trial: Trial) -> dict[str, Any]:
    return {
        "kind": trial.kind,
        "version": trial.version,
        "base": trial.base,
        "start_head": trial.start_head,
        "share": trial.share,
    }


def _bytes(line: str) -> bytes:
    try:
        return line.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return line.encode(errors="surrogatepass")  # not UTF-8 either, and so refused


def _appended_at(value: bytes) -> float | None:
    """Seconds since the epoch; ``None`` if the line does not say."""
    try:
        return _stamp.decode(value).appended_at.timestamp()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
