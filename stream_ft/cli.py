"""The command ``stream-ft``. Modules behind a command are imported when it runs: ``--help`` answers at once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.progress import TextColumn as ProgressText
from rich.table import Table

from stream_ft import __version__, cli_adapters, cli_control, cli_state
from stream_ft.cli_options import (
    SECRETS,
    AsJson,
    Config,
    LabelColumn,
    Order,
    PhaseColumn,
    SendAs,
    Set,
    StateDir,
    TextColumn,
    flags,
    settings,
)
from stream_ft.config import load, sources
from stream_ft.errors import ConfigError, StreamFTError

app = typer.Typer(
    name="stream-ft",
    help="Models in production that learn from what their users tell them, safely, while they serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(name="config", help="Settings.", no_args_is_help=True)
app.add_typer(config_app)
app.add_typer(cli_control.app)
app.add_typer(cli_adapters.app)

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", help="Port; 0 takes a free one and prints it.")]


def main() -> NoReturn:
    """Run the command line and exit: 0, 1 (it did not work), 2 (wrong use or settings), 130 (Ctrl-C), 143 (SIGTERM)."""
    # Before numpy is loaded. The products here are small: a second BLAS thread spins more than it computes, and takes
    # the core that the other process needs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        app(prog_name="stream-ft")
    except StreamFTError as error:
        print(f"stream-ft: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        print(f"stream-ft: {what}{error.strerror or error}.", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("STREAM_FT_TRACEBACK") == "1":
            raise
        print(
            f"stream-ft: something that should not happen: {type(error).__name__}: {error}\n"
            "With STREAM_FT_TRACEBACK=1 the same command shows where; please report it.",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"stream-ft {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    config: Config = None, state_dir: StateDir = None, host: Host = None, port: Port = None, assign: Set = None
) -> None:
    """Serve and learn, in two processes under one supervisor, until Ctrl-C."""
    from stream_ft.wiring.up import run

    raise typer.Exit(run(settings(config, state_dir, assign, serve__host=host, serve__port=port)))


@app.command()
def serve(
    config: Config = None, state_dir: StateDir = None, host: Host = None, port: Port = None, assign: Set = None
) -> None:
    """Answer over HTTP with the version that the control log names."""
    from stream_ft.wiring.serve import run

    raise typer.Exit(run(settings(config, state_dir, assign, serve__host=host, serve__port=port)))


@app.command()
def learn(
    config: Config = None, state_dir: StateDir = None, host: Host = None, port: Port = None, assign: Set = None
) -> None:
    """Learn from feedback and labels; the port has probes and metrics only."""
    from stream_ft.wiring.learn import run

    raise typer.Exit(run(settings(config, state_dir, assign, learn__host=host, learn__port=port)))


@app.command()
def ingest(
    config: Config = None, state_dir: StateDir = None, host: Host = None, port: Port = None, assign: Set = None
) -> None:
    """Validate and redact between a Kafka broker and the learner; the port has probes and metrics only."""
    from stream_ft.wiring.ingest import run

    raise typer.Exit(run(settings(config, state_dir, assign, ingest__host=host, ingest__port=port)))


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Your own messages with their labels.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option("--text-column", metavar="C", help="Of FILE, if the guess is wrong.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option("--label-column", metavar="C", help="Of FILE, if the guess is wrong.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Encoder: Hugging Face name or path.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where summary.json and report.html go.")] = Path(
        "demo-out"
    ),
) -> None:
    """Watch a model learn from a shop's messages: served, corrected, drifting, promoted, refused, rolled back."""
    from stream_ft.demo.run import run

    raise typer.Exit(run(out=out, data=data, text_column=text_column, label_column=label_column, model=model))


@app.command()
def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV or JSON lines: the stream, in its order.")],
    text_column: TextColumn,
    label_column: LabelColumn,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where summary.json and report.html go.")],
    test: Annotated[Path | None, typer.Option("--test", metavar="FILE", help="Read for the last score only.")] = None,
    phase_column: PhaseColumn = None,
    order: Annotated[Order, typer.Option("--order", help="As in the file, or shuffled by the seed.")] = "file",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Same seed and input, same summary.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N events.")] = None,
    noise: Annotated[
        float, typer.Option("--noise", metavar="P", min=0, max=1, help="Share of the labels fed that are wrong.")
    ] = 0.0,
    label_delay: Annotated[
        int, typer.Option("--label-delay", metavar="N", min=0, help="Events until a label comes.")
    ] = 0,
    config: Config = None,
    assign: Set = None,
    as_json: AsJson = False,
) -> None:
    """Run the learner over a file on a simulated clock: how a policy is tried before it goes live."""
    from stream_ft.wiring.simulate import simulate as run

    with _bar() as told:
        summary = run(
            file,
            text_column=text_column,
            label_column=label_column,
            out=out,
            test=test,
            phase_column=phase_column,
            order=order,
            seed=seed,
            limit=limit,
            noise=noise,
            label_delay=label_delay,
            settings=load(config, flags(None, assign)),
            progress=told,
        )
    print(json.dumps(summary) if as_json else _in_words(summary, out))


@contextmanager
def _bar() -> Iterator[Callable[[int, int | None, float], None]]:
    """A progress bar on stderr with the accuracy so far; what it yields is told ``done, all, accuracy``.

    Where stderr is no terminal, a line after each tenth.
    """
    if not sys.stderr.isatty():
        yield _tenths()
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        ProgressText("accuracy {task.fields[accuracy]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("events", total=None, accuracy=0.0)
        yield lambda done, total, accuracy: progress.update(task, completed=done, total=total, accuracy=accuracy)


def _tenths() -> Callable[[int, int | None, float], None]:
    told = 0

    def tell(done: int, total: int | None, accuracy: float) -> None:
        nonlocal told
        if total and done * 10 // total > told:
            told = done * 10 // total
            print(f"{done:,} of {total:,} events, accuracy {accuracy:.3f}", file=sys.stderr, flush=True)

    return tell


def _in_words(summary: dict[str, object], out: Path) -> str:
    """The summary's main numbers, and where the rest is."""
    lines = []
    for name, text in (
        ("events", "events"),
        ("refused_rows", "rows left out: no text or label that could be learned from"),
        ("prequential_accuracy", "accuracy, predicted before learned"),
        ("frozen_accuracy", "the same under the model frozen after 1,000 labels"),
        ("final_test_accuracy", "accuracy on the test file at the end"),
        ("promotions", "promotions"),
        ("refusals", "refusals by the gate"),
        ("cpu_ms_per_event", "ms of CPU per event, learning included"),
    ):
        value = summary.get(name)
        if value is not None and (value or name != "refused_rows"):
            number = f"{value:.3f}" if isinstance(value, float) else str(value)
            lines.append(f"{number:>8}  {text}")
    return "\n".join([*lines, f"Report: {out / 'report.html'}", f"Numbers: {out / 'summary.json'}"])


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV or JSON lines.")],
    text_column: TextColumn,
    label_column: LabelColumn,
    phase_column: PhaseColumn = None,
    url: Annotated[str, typer.Option("--url", help="Of a serving process.")] = "http://127.0.0.1:8080",
    rate: Annotated[float, typer.Option("--rate", metavar="R", min=0.01, help="Events per second.")] = 20.0,
    label_delay: Annotated[
        float, typer.Option("--label-delay", metavar="S", min=0, help="Seconds until the correction is sent.")
    ] = 0.0,
    noise: Annotated[
        float, typer.Option("--noise", metavar="P", min=0, max=1, help="Share of the labels sent that are wrong.")
    ] = 0.0,
    send_as: Annotated[
        SendAs, typer.Option("--as", help="Name the issued prediction, or publish input and label.")
    ] = "feedback",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where summary.json and report.html go.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N events.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the noise.")] = 0,
    token: Annotated[
        str, typer.Option("--token", envvar="STREAM_FT_SERVE__TOKEN", help="If the server wants one.")
    ] = "",
) -> None:
    """Play a file against a running server: ask, then send the right answer after the delay."""
    from stream_ft.wiring.replay import replay as run

    with _bar() as told:
        summary = run(
            file,
            url=url,
            text_column=text_column,
            label_column=label_column,
            phase_column=phase_column,
            rate=rate,
            label_delay=label_delay,
            noise=noise,
            as_=send_as,
            out=out,
            limit=limit,
            seed=seed,
            token=token,
            tell=told,
        )
    for name, value in summary.items():
        if isinstance(value, int | float | str):
            print(f"{name}: {_number(value)}")
        elif isinstance(value, dict) and name != "config":
            print(f"{name}: " + ", ".join(f"{key} {_number(inner)}" for key, inner in value.items()))


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@config_app.command("show")
def config_show(config: Config = None, state_dir: StateDir = None, assign: Set = None, as_json: AsJson = False) -> None:
    """Each setting, its value, and where it came from."""
    rows = [
        (name, "***" if name in SECRETS and value else value, origin)
        for name, value, origin in sources(config, flags(state_dir, assign))
    ]
    if as_json:
        print(json.dumps([{"name": n, "value": v, "origin": o} for n, v, o in rows]))
        return
    table = Table("setting", "value", "from")
    for name, value, origin in rows:
        table.add_row(name, json.dumps(value), origin)
    # Never cut a value: a narrow terminal wraps, and a pipe gets whole lines.
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


app.command("status")(cli_state.status)
app.command("doctor")(cli_state.doctor)
app.command("reset")(cli_state.reset)
