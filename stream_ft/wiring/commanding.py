"""Commands that came over HTTP, given as the command line gives them."""

from __future__ import annotations

from stream_ft import control
from stream_ft.config import Settings
from stream_ft.errors import ConfigError
from stream_ft.serve.body import RefusedError
from stream_ft.serve.operate import CommandRefused, ControlBody, ControlReply
from stream_ft.wiring import commands
from stream_ft.wiring.operator import Issued

PLAIN: dict[
    str, type[control.Pin] | type[control.Unpin] | type[control.Pause] | type[control.Resume] | type[control.TrainNow]
] = {
    "pin": control.Pin,
    "unpin": control.Unpin,
    "pause": control.Pause,
    "resume": control.Resume,
    "train_now": control.TrainNow,
}


def give(settings: Settings, asked: ControlBody) -> ControlReply:
    """Append one command to the control log of these settings, and tell what is in force after it.

    Raises:
        RefusedError: 422 if it cannot be issued (nothing is appended), 409 if the log refuses it.
        StreamFTError: the log cannot be read or written.
    """
    try:
        issued = _issued(settings, asked)
    except ConfigError as error:
        raise RefusedError(422, error.message, error.remedy) from error
    if not issued.accepted:
        raise CommandRefused(f"Refused: {issued.reason}", issued.remedy)
    state = issued.after.state
    return ControlReply(
        version=state.version,
        epoch=state.epoch,
        before=issued.before.state.version,
        pinned=state.pinned,
        paused=state.paused,
    )


def _issued(settings: Settings, asked: ControlBody) -> Issued:
    if asked.type == "rollback":
        reason = asked.reason.strip() or commands.REASON
        return commands.rollback(settings, to=asked.to, reason=reason, id=asked.id)
    if asked.type == "label_add":
        return commands.label_add(settings, asked.label, id=asked.id)
    if asked.type == "canary":
        if asked.share is None:
            raise ConfigError("A canary needs a share.", "Give it, from 0 to 1; 0 ends the trial.")
        return commands.canary(settings, asked.version, share=asked.share, head=asked.head, id=asked.id)
    if asked.type == "shadow":
        share = 1.0 if asked.share is None else asked.share
        return commands.shadow(settings, asked.version, share=share, head=asked.head, id=asked.id)
    return commands.plain(settings, PLAIN[asked.type], id=asked.id)
