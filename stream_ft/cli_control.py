"""``stream-ft control``: an operator's commands. Each is one message on the control log, and says what became of it."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_ft.cli_options import AsJson, Config, Set, StateDir, settings
from stream_ft.errors import ConfigError

if TYPE_CHECKING:
    from stream_ft.control import Message
    from stream_ft.release.fold import Trial
    from stream_ft.wiring.operator import Folded

app = typer.Typer(name="control", help="Commands of an operator, and the audit of them.", no_args_is_help=True)

Reason = Annotated[str, typer.Option("--reason", help="Why; it stays on the log.")]


@app.command()
def rollback(
    to: Annotated[str, typer.Option("--to", metavar="EPOCH|VERSION|previous", help="What comes back.")] = "previous",
    reason: Reason = "commanded",
    quarantine_source: Annotated[
        str | None, typer.Option("--quarantine-source", metavar="NAME", help="Examples of this source train no more.")
    ] = None,
    quarantine_since: Annotated[
        str | None,
        typer.Option(
            "--quarantine-since", metavar="TIME", help="Examples since then train no more (RFC 3339, or seconds)."
        ),
    ] = None,
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
) -> None:
    """Bring an earlier version back at once; the base that is left cannot return by itself."""
    from stream_ft.wiring.operator import target

    quarantine: dict[str, Any] | None = None
    if quarantine_source is not None or quarantine_since is not None:
        quarantine = {"source": quarantine_source, "since": _seconds(quarantine_since)}

    def fields(folded: Folded) -> dict[str, Any]:
        return {"to_epoch": target(folded, to), "reason": reason, "quarantine": quarantine}

    _issue("Rollback", fields, config, state_dir, assign)


@app.command()
def deny(
    sha256: Annotated[str, typer.Argument(metavar="SHA256", help="A base, as `adapters list` names it; 8 digits do.")],
    reason: Reason = "commanded",
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
) -> None:
    """Forbid a base for ever; if it is active, the latest one that is not denied comes back."""

    def fields(folded: Folded) -> dict[str, Any]:
        return {"sha256": _whole(sha256, {release.base for _, release in folded.state.history}), "reason": reason}

    _issue("Deny", fields, config, state_dir, assign)


@app.command("label-add")
def label_add(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="A label that users may use from now on.")],
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
) -> None:
    """Allow users to introduce a label; the label topic may do so anyway."""
    _issue("LabelAdd", lambda _: {"label": label}, config, state_dir, assign)


@app.command()
def pin(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Keep the active version: no promotion until `unpin`. Operators may still roll back."""
    _issue("Pin", lambda _: {}, config, state_dir, assign)


@app.command()
def unpin(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Allow promotions again."""
    _issue("Unpin", lambda _: {}, config, state_dir, assign)


@app.command()
def pause(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """No rounds and no promotions until `resume`; events are still taken in."""
    _issue("Pause", lambda _: {}, config, state_dir, assign)


@app.command()
def resume(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Learn again."""
    _issue("Resume", lambda _: {}, config, state_dir, assign)


@app.command("train-now")
def train_now(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Start a round without waiting for the schedule."""
    _issue("TrainNow", lambda _: {}, config, state_dir, assign)


Challenger = Annotated[
    str,
    typer.Argument(
        metavar="VERSION_OR_SHA", help="A version, an epoch, or a base, eight digits of it; none to end it."
    ),
]
HeadOf = Annotated[str, typer.Option("--head", metavar="SHA256", help="Another head than the base's newest.")]


@app.command()
def canary(
    share: Annotated[float, typer.Option("--share", metavar="0..1", help="Of the keys; 0 ends the trial.")],
    version: Challenger = "",
    head: HeadOf = "",
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
) -> None:
    """Let another version answer a share of the users, always the same ones."""
    _issue("Canary", _tried(version, head, share), config, state_dir, assign)


@app.command()
def shadow(
    version: Challenger = "",
    share: Annotated[float, typer.Option("--share", metavar="0..1", help="Of the requests; 0 ends the trial.")] = 1.0,
    head: HeadOf = "",
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
) -> None:
    """Let another version score a share of the requests, its answers compared and not used."""
    _issue("Shadow", _tried(version, head, share), config, state_dir, assign)


def _tried(version: str, head: str, share: float) -> Callable[[Folded], dict[str, Any]]:
    """The fields of a trial's message."""
    from stream_ft.wiring.operator import can_be_tried, challenger

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


@app.command()
def explain(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Control messages with `appended_at`, one a line; - for stdin.")
    ],
    as_json: AsJson = False,
) -> None:
    """Fold a file of control messages: which were accepted, which were refused and why, and what was in force."""
    import json

    from stream_ft.release.explain import explain as fold_lines

    try:
        # A line that is not UTF-8 is a refused message like any other, so bad bytes must not stop the reading.
        data = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no file {file}.", "Give a file of control messages, one JSON object a line."
        ) from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    with io.TextIOWrapper(data, encoding="utf-8", errors="surrogateescape", newline="\n") as source:
        for row in fold_lines(source):
            print(json.dumps(row) if as_json else _line(row))


def _line(row: dict[str, Any]) -> str:
    mark = "accepted" if row["accepted"] else "refused "
    flags = "".join(f" {name}" for name in ("pinned", "paused") if row[name])
    after = f"{row['version'] or 'nothing'} in force{flags}, led by {row['leader'] or 'nobody'}"
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{row['offset']:>6}  {mark}  {row['id'] or '(no id)'}{reason} [{after}]"


def _issue(
    kind: str,
    fields: Callable[[Folded], dict[str, Any]],
    config: Path | None,
    state_dir: str | None,
    assign: list[str] | None,
) -> None:
    """Issue a message of type ``kind`` of :mod:`stream_ft.control` and say what became of it; exit 1 if refused."""
    import msgspec

    from stream_ft import control
    from stream_ft.wiring.operator import can_be_had, can_be_tried, issue

    chosen = settings(config, state_dir, assign)
    by = f"operator/{chosen.operator}"

    def make(folded: Folded, now: float) -> Message:
        try:
            message: Message = control.new(getattr(control, kind), by=by, now=now, **fields(folded))
        except msgspec.ValidationError as error:
            raise ConfigError(f"The command cannot be issued: {error}.") from error
        return message

    issued = issue(chosen, make)
    old, new = issued.before.state, issued.after.state
    if not issued.accepted:
        lists = {"Rollback": can_be_had, "Canary": can_be_tried, "Shadow": can_be_tried}
        more = f" {lists[kind](issued.before)}" if kind in lists else ""
        print(f"Refused: {issued.reason}{more}", file=sys.stderr)
        raise typer.Exit(1)
    if (old.base, old.start_head) != (new.base, new.start_head):
        print(f"Accepted: {old.version} -> {new.version} (epoch {new.epoch}). Every replica takes it from the log.")
    elif old.epoch != new.epoch:
        print(f"Accepted: epoch {old.epoch} -> {new.epoch}; the release stays, now named {new.version}.")
    else:
        flags = [name for name in ("pinned", "paused") if getattr(new, name)]
        tried = f" {_trial(new.trial)}" if new.trial is not None or kind in ("Canary", "Shadow") else ""
        print(f"Accepted. In force: {new.version}{', ' + ' and '.join(flags) if flags else ''}.{tried}")


def _trial(trial: Trial | None) -> str:
    if trial is None:
        return "On trial: nothing."
    return f"On trial: {trial.version} (base {trial.base[:12]}), {trial.kind}, share {trial.share:g}."


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


def _seconds(text: str | None) -> float | None:
    """RFC 3339, or seconds since the epoch, as seconds since the epoch."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if math.isfinite(seconds):
            return seconds
        raise ConfigError(f"{text} is not a time.", "Write 2026-01-31T12:00:00Z, or seconds since the epoch.")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{text} is not a time.", "Write 2026-01-31T12:00:00Z, or seconds since the epoch."
        ) from error
    if moment.tzinfo is None:
        raise ConfigError(f"{text} has no offset from UTC.", "Write 2026-01-31T12:00:00Z.")
    return moment.timestamp()
