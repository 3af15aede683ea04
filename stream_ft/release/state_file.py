"""A replica's folded state on disk, so that it serves the right version after a restart with the log away."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from stream_ft import failpoints
from stream_ft.errors import ConfigError
from stream_ft.release.fold import Quarantined, Release, State, Trial
from stream_ft.release.grown import Chain, Register

FORMAT = 1


class _Saved(Struct, frozen=True, kw_only=True):
    format: int
    log_id: str
    offset: int
    epoch: int
    leader: str | None
    base: str
    start_head: str
    pinned: bool
    paused: bool
    denied: dict[str, int]
    history: list[tuple[str, str]]
    """By epoch, from 0 on."""
    numbers: dict[str, int]
    ids: dict[str, int]
    quarantines: list[Quarantined]
    labels_added: list[str]
    train_now: int
    trial: Trial | None = None
    """Missing in files that were written before there were trials."""


def write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the file as a whole: whoever reads it, whenever, finds the old content or the new one.

    Args:
        path: the file.
        data: its content.
        durable: that holds after a power cut, too. Without it nothing is fsynced: for files that are written again
            every second and not needed after a restart.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    temp = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temp.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        failpoints.hit("state.before_rename")
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> bytes | None:
    """What was written last; ``None`` if nothing was yet."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def encode_state(state: State) -> bytes:
    """The state as JSON, after a line with its sha256."""
    saved = _Saved(
        format=FORMAT,
        log_id=state.log_id,
        offset=state.offset,
        epoch=state.epoch,
        leader=state.leader,
        base=state.base,
        start_head=state.start_head,
        pinned=state.pinned,
        paused=state.paused,
        denied=dict(state.denied),
        history=[(release.base, release.start_head) for _, release in state.history],
        numbers=dict(state.numbers),
        ids=dict(state.ids),
        quarantines=list(state.quarantines),
        labels_added=list(state.labels_added),
        train_now=state.train_now,
        trial=state.trial,
    )
    body = msgspec.json.encode(saved)
    return sha256(body).hexdigest().encode() + b"\n" + body


def decode_state(data: bytes) -> State:
    """Undo of :func:`encode_state`.

    Raises:
        ConfigError: the bytes are damaged, or were written by a later version.
    """
    digest, _, body = data.partition(b"\n")
    if digest != sha256(body).hexdigest().encode():
        raise ConfigError("The saved state is damaged.", _REMEDY)
    try:
        saved = msgspec.json.decode(body, type=_Saved)
    except msgspec.DecodeError as error:
        raise ConfigError(f"The saved state cannot be read: {error}.", _REMEDY) from error
    if saved.format != FORMAT:
        raise ConfigError(f"The saved state has format {saved.format}, not {FORMAT}.", _REMEDY)
    return State(
        log_id=saved.log_id,
        offset=saved.offset,
        epoch=saved.epoch,
        leader=saved.leader,
        base=saved.base,
        start_head=saved.start_head,
        pinned=saved.pinned,
        paused=saved.paused,
        denied=Register(saved.denied),
        history=Chain((epoch, Release(*release)) for epoch, release in enumerate(saved.history)),
        numbers=Register(saved.numbers),
        ids=Register(saved.ids),
        quarantines=tuple(saved.quarantines),
        labels_added=tuple(saved.labels_added),
        train_now=saved.train_now,
        trial=saved.trial,
    )


_REMEDY = "Remove the file: the state is folded again from the control log."
