"""``stream-ft control``: an operator's commands. Each is one message on the control log, and says what became of it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_ft.cli_options import AsJson, Config, Set, StateDir, settings
from stream_ft.errors import ConfigError

if TYPE_CHECKING:
    from stream_ft.release.fold import Trial
    from stream_ft.wiring.operator import Issued

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
    from stream_ft.wiring import commands

    issued = commands.rollback(
        settings(config, state_dir, assign),
        to=to,
        reason=reason,
        quarantine_source=quarantine_source,
        quarantine_since=quarantine_since,
    )
    _tell(issued)


@app.command()
def deny(
    sha256: Annotated[str, typer.Argument(metavar="SHA256", help="A base, as `adapters list` names it; 8 digits do.")],
    reason: Reason = "commanded",
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
) -> None:
    """Forbid a base for ever; if it is active, the latest one that is not denied comes back."""
    from stream_ft.wiring import commands

    _tell(commands.deny(settings(config, state_dir, assign), sha256, reason=reason))


@app.command("label-add")
def label_add(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="A label that users may use from now on.")],
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
) -> None:
    """Allow users to introduce a label; the label topic may do so anyway."""
    from stream_ft.wiring import commands

    _tell(commands.label_add(settings(config, state_dir, assign), label))


@app.command()
def pin(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Keep the active version: no promotion until `unpin`. Operators may still roll back."""
    _plain("Pin", config, state_dir, assign)


@app.command()
def unpin(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Allow promotions again."""
    _plain("Unpin", config, state_dir, assign)


@app.command()
def pause(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """No rounds and no promotions until `resume`; events are still taken in."""
    _plain("Pause", config, state_dir, assign)


@app.command()
def resume(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Learn again."""
    _plain("Resume", config, state_dir, assign)


@app.command("train-now")
def train_now(config: Config = None, state_dir: StateDir = None, assign: Set = None) -> None:
    """Start a round without waiting for the schedule."""
    _plain("TrainNow", config, state_dir, assign)


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
    from stream_ft.wiring import commands

    _tell(commands.canary(settings(config, state_dir, assign), version, share=share, head=head))


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
    from stream_ft.wiring import commands

    _tell(commands.shadow(settings(config, state_dir, assign), version, share=share, head=head))


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
    trial = row["trial"]
    beside = f", {trial['kind']} {trial['version']} of {trial['share']:g}" if trial else ""
    after = f"{row['version'] or 'nothing'} in force{flags}{beside}, led by {row['leader'] or 'nobody'}"
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{row['offset']:>6}  {mark}  {row['id'] or '(no id)'}{reason} [{after}]"


def _plain(kind: str, config: Path | None, state_dir: str | None, assign: list[str] | None) -> None:
    """Issue a message of :mod:`stream_ft.control` that says nothing but its type."""
    from stream_ft import control
    from stream_ft.wiring import commands

    _tell(commands.plain(settings(config, state_dir, assign), getattr(control, kind)))


def _tell(issued: Issued) -> None:
    """Say what became of a command; exit 1 if it was refused."""
    old, new = issued.before.state, issued.after.state
    if not issued.accepted:
        print(f"Refused: {issued.reason} {issued.remedy}".rstrip(), file=sys.stderr)
        raise typer.Exit(1)
    if (old.base, old.start_head) != (new.base, new.start_head):
        print(f"Accepted: {old.version} -> {new.version} (epoch {new.epoch}). Every replica takes it from the log.")
    elif old.epoch != new.epoch:
        print(f"Accepted: epoch {old.epoch} -> {new.epoch}; the release stays, now named {new.version}.")
    else:
        flags = [name for name in ("pinned", "paused") if getattr(new, name)]
        tried = f" {_trial(new.trial)}" if new.trial is not None or old.trial is not None else ""
        print(f"Accepted. In force: {new.version}{', ' + ' and '.join(flags) if flags else ''}.{tried}")


def _trial(trial: Trial | None) -> str:
    if trial is None:
        return "On trial: nothing."
    return f"On trial: {trial.version} (base {trial.base[:12]}), {trial.kind}, share {trial.share:g}."
