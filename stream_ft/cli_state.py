"""``stream-ft status``, ``doctor`` and ``reset``: the state folder, seen from outside."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from stream_ft.cli_options import AsJson, Config, Set, StateDir, flags, settings
from stream_ft.config import Settings, load
from stream_ft.errors import AlreadyRunningError, ConfigError, StreamFTError

ROLES = ("up", "serve", "learn")
WRITTEN = (
    *(
        f"{name}.db{suffix}"
        for name in ("serve", "learn", "control", "store")
        for suffix in ("", "-wal", "-shm", "-journal")
    ),
    "serve.state",
    "serve.key",
    "learn.status.json",
    *(f"{role}.lock" for role in ROLES),
    "registry",
    "jobs",
)
"""Everything that a process writes into its state folder; ``reset`` removes nothing else."""


def status(
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Draw it again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", metavar="S", min=0.1, help="Seconds between two pictures.")] = 1.0,
) -> None:
    """What is in force, who leads, what runs, and when the next round comes and why."""
    chosen = settings(config, state_dir, assign)
    if watch:
        from rich.console import Console

        from stream_ft.cli_watch import watch as draw

        if as_json:
            raise ConfigError("--json and --watch do not go together.", "Ask for --json as often as you like.")
        console = Console()
        if not console.is_terminal:
            raise ConfigError("--watch needs a terminal.", "Without one, ask for --json as often as you like.")
        facts_of(chosen)  # nothing to watch is an error, not a picture
        draw(lambda: facts_of(chosen), every_s=every, console=console)
    facts = facts_of(chosen)
    if as_json:
        print(json.dumps(facts))
        return
    flags = "".join(f", {name}" for name in ("pinned", "paused") if facts[name])
    print(f"state     {facts['state_dir']}")
    print(f"in force  {facts['version']} (epoch {facts['epoch']}{flags}), led by {facts['leader'] or 'nobody'}")
    if (trial := facts["trial"]) is not None:
        print(f"on trial  {trial['version']} (base {trial['base'][:12]}), {trial['kind']}, share {trial['share']:g}")
    for role in ("serve", "learn"):
        pid = facts["running"][role]
        print(f"{role:<9} {'not running' if pid is None else f'process {pid}'}")
    learner = facts["learner"]
    if learner is None:
        print("learner   has not written a status yet")
        return
    if facts["running"]["learn"] is None:
        print(f"          the rest is as it was {time.time() - learner.get('time', 0):.0f} s ago")
    for line in learner_lines(learner):
        print(line)


def facts_of(chosen: Settings) -> dict[str, Any]:
    """Everything that ``status`` tells, as plain JSON values.

    Raises:
        StreamFTError: nothing was ever started there.
    """
    from stream_ft.wiring.operator import look

    state = look(chosen).state
    trial = state.trial
    return {
        "state_dir": str(chosen.state_path()),
        "version": state.version,
        "epoch": state.epoch,
        "base": state.base,
        "start_head": state.start_head,
        "leader": state.leader,
        "pinned": state.pinned,
        "paused": state.paused,
        "trial": None
        if trial is None
        else {
            "kind": trial.kind,
            "version": trial.version,
            "base": trial.base,
            "start_head": trial.start_head,
            "share": trial.share,
        },
        "running": {role: holder(chosen.state_path(), role) for role in ROLES},
        "learner": _learner(chosen.state_path() / "learn.status.json"),
    }


def learner_lines(learner: dict[str, Any]) -> list[str]:
    """The learner's status file in words."""
    lines = []
    if not learner.get("ready", True):
        lines.append(f"trouble   {learner.get('why', '')}")
    counts = learner.get("counts", {})
    train, held, lag = counts.get("train", 0), counts.get("holdout", 0), learner.get("lag", 0)
    lines.append(f"examples  {train} to train on, {held} held out; {lag} events not read yet")
    if learner.get("accuracy") is not None:
        lines.append(
            f"accuracy  {learner['accuracy']:.3f} over the last {learner.get('accuracy_over', 0)} labelled events"
        )
    if (running := learner.get("round")) is not None:
        lines.append(f"round     a {running['kind']} round is running")
    else:
        coming = learner.get("next_round") or {}
        when = coming.get("in_s")
        lines.append(f"round     {coming.get('reason', 'unknown')}" + (f" (in {when:.0f} s)" if when else ""))
    for happening in learner.get("happenings", [])[-5:]:
        at = time.strftime("%H:%M:%S", time.localtime(happening["time"]))
        lines.append(f"{at}  {happening['kind']}: {happening['text']}")
    return lines


def doctor(config: Config = None, state_dir: StateDir = None, assign: Set = None, as_json: AsJson = False) -> None:
    """Check model, device, disk, paths, ports and logs, and say what to do; exit 1 if something is broken."""
    import msgspec

    from stream_ft.doctor import examine

    checks = examine(load(config, flags(state_dir, assign)))  # a state folder that cannot be one is a finding
    if as_json:
        print(json.dumps([msgspec.to_builtins(check) for check in checks]))
    else:
        for check in checks:
            print(
                f"{check.standing:<7} {check.name}: {check.text}"
                + (f"\n        {check.remedy}" if check.remedy else "")
            )
    if any(check.standing == "broken" for check in checks):
        raise typer.Exit(1)


def reset(
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what was written for this model: lists it, asks, and touches nothing else."""
    from stream_ft.lock import FolderLock

    folder = settings(config, state_dir, assign).state_path()
    found = [path for name in WRITTEN if (path := folder / name).exists() or path.is_symlink()]
    if not found:
        print(f"There is nothing to remove in {folder}.")
        return
    for role in ROLES:
        if (pid := holder(folder, role)) is not None:
            raise AlreadyRunningError(f"stream-ft {role} runs on {folder} (process {pid}).", "Stop it first.")
    for path in found:
        print(f"{_size(path) / 1e6:10.1f} MB  {path}")
    if not yes and (not sys.stdin.isatty() or not _confirmed(f"Remove these {len(found)} for good?")):
        raise StreamFTError("Nothing was removed.", "" if sys.stdin.isatty() else "Without a terminal, say --yes.")
    locks = [FolderLock(folder / f"{role}.lock", f"stream-ft {role}") for role in ROLES]
    try:
        # Held to the end: nothing can start on a folder that is half removed.
        for lock in locks:
            lock.acquire()
        for path in [*found, *(folder / f"{role}.lock" for role in ROLES)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    finally:
        for lock in locks:
            lock.release()
    rest = sorted(path.name for path in folder.iterdir())
    if rest:
        print(f"Removed. Left in {folder}, because it is not ours: {', '.join(rest)}")
    else:
        folder.rmdir()
        print(f"Removed, {folder} included.")


def _confirmed(question: str) -> bool:
    try:
        return bool(typer.confirm(question))
    except typer.Abort as abort:  # Ctrl-C and the end of the input alike
        print(file=sys.stderr)
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from abort
        return False


def holder(folder: Path, role: str) -> str | None:
    """Process id of who holds a role's lock in this folder, ``"?"`` if it cannot be told, ``None`` if nobody does."""
    try:
        with (folder / f"{role}.lock").open() as file:
            try:
                # Shared and only for a moment: two that look at once are not in each other's way.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(32).strip() or "?"
    except FileNotFoundError:
        pass
    return None


def _learner(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {"ready": False, "why": f"{path} cannot be read."}
    return found if isinstance(found, dict) else None


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    return path.lstat().st_size
