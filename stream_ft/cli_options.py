"""Options that several commands share, and how they become settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
from pydantic import TypeAdapter, ValidationError

from stream_ft.config import Settings, flatten, load
from stream_ft.errors import ConfigError

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML.")]
StateDir = Annotated[
    str | None, typer.Option("--state-dir", metavar="DIR", help="Folder of everything that is written.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="One setting, as `config show` names it. May be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text for people.")]
TextColumn = Annotated[
    str, typer.Option("--text-column", metavar="C", help="Name of the column, or its number from 0 without a header.")
]
LabelColumn = Annotated[
    str, typer.Option("--label-column", metavar="C", help="Name of the column, or its number from 0 without a header.")
]
PhaseColumn = Annotated[
    str | None, typer.Option("--phase-column", metavar="C", help="Accuracy also for each value of this column.")
]
Order = Literal["file", "shuffle"]
SendAs = Literal["feedback", "labels"]

SECRETS = frozenset({"serve.token", "kafka.password"})
"""Settings whose value is never printed."""


def flags(state_dir: str | None, assignments: list[str] | None, **more: Any) -> dict[str, Any]:
    """Dotted settings given on the command line; ``more`` has ``__`` where a dot belongs. ``None`` is not given.

    Raises:
        ConfigError: ``--set`` without ``=``, with a name that does not exist, or a value of the wrong type.
    """
    known = flatten(Settings.model_construct().model_dump())
    given: dict[str, Any] = {}
    for assignment in assignments or []:
        name, separator, value = assignment.partition("=")
        name = name.strip()
        if not separator:
            raise ConfigError(f"--set {assignment} has no '='.", "Write --set NAME=VALUE, e.g. --set serve.port=9000.")
        if name not in known:
            raise ConfigError(f"There is no setting {name}.", "See stream-ft config show.")
        given[name] = value if "." in name else _typed(name, value)
    given |= {name.replace("__", "."): value for name, value in more.items() if value is not None}
    if state_dir is not None:
        given["state_dir"] = state_dir
    return given


def settings(config: Path | None, state_dir: str | None, assignments: list[str] | None, **more: Any) -> Settings:
    """The settings of this call: flags > environment > file > defaults.

    Raises:
        ConfigError: a source cannot be read or names something that does not exist, or the state folder cannot be one.
    """
    chosen = load(config, flags(state_dir, assignments, **more))
    folder = chosen.state_path()
    for path in (folder, *folder.parents):
        if path.is_dir():
            break
        if path.exists():
            raise ConfigError(f"{path} is a file, not a folder.", "Name another folder with --state-dir.")
    return chosen


def _typed(name: str, value: str) -> Any:
    """A setting outside any section as its type; sections are validated as a whole when they are loaded."""
    try:
        return TypeAdapter(cast("type[Any]", Settings.model_fields[name].annotation)).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"Setting {name}: {error.errors()[0]['msg']}.", "See stream-ft config show.") from error
