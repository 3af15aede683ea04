"""What a message of the control log means, in words for the status and the report."""

from __future__ import annotations

from typing import Any

from stream_ft import control
from stream_ft.learn.learner import Release
from stream_ft.release.fold import State, Verdict
from stream_ft.wiring.releasing import numbers_of


def narrated(
    previous: State, state: State, verdict: Verdict, *, mine: Release | None, issuer: str
) -> tuple[str, str, dict[str, Any]] | None:
    """Kind and text of what happened, with what else is known of it; ``None`` if it is not worth telling.

    Args:
        previous, state: before and after the message.
        mine: what this learner is releasing, if it is.
        issuer: this learner's name on the control log.
    """
    message = verdict.message
    if message is None:
        return None
    kind = message.__struct_config__.tag
    told = f"{previous.version} -> {state.version}"
    if not verdict.accepted:
        return "note", f"{kind} was refused: {verdict.reason}", {}
    if isinstance(message, control.Deny) and previous.epoch == state.epoch:
        return "note", f"deny of base {message.sha256[:12]} by {message.issued_by}: {message.reason}", {}
    if isinstance(message, control.Rollback | control.Deny):
        automatic = isinstance(message, control.Rollback) and message.automatic
        return (
            "rollback",
            f"{told}, by {message.issued_by}: {message.reason}",
            {"numbers": {"automatic": True}} if automatic else {},
        )
    if isinstance(message, control.Promote):
        if mine is None or message.issued_by != issuer:
            return "promotion", f"{told}, by {message.issued_by}", {"sha256": message.start_head}
        more = {
            "numbers": numbers_of(mine.verdict),
            "result": mine.result,
            "sha256": message.start_head,
            "parent": previous.version,
        }
        return "promotion", f"{told}, by a {mine.job.kind} round: {mine.verdict.reason}", more
    if not isinstance(message, control.Genesis | control.Lead):
        return "note", f"{kind} by {message.issued_by}", {}
    return None
