"""What ``stream-ft doctor`` checks. Each check looks at one thing, changes nothing, and says what to do."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from stream_ft.config import Settings
from stream_ft.errors import ArtifactError, ConfigError, StreamFTError
from stream_ft.serve.predictions_id import load_key

LEAST_DISK_MB = 500
ENOUGH_DISK_MB = 2_000
MINIMUM_PYTHON = (3, 11)
BROKER_S = 10.0
"""For a broker that does not answer."""


class Check(Struct, frozen=True, kw_only=True):
    """One finding."""

    name: str
    standing: Literal["good", "careful", "broken"]
    text: str
    remedy: str = ""


def examine(settings: Settings) -> list[Check]:
    """Every check, in the order in which one would mend things."""
    checks: list[Callable[[Settings], Check]] = [
        python,
        model,
        device,
        engine,
        state_folder,
        disk,
        databases,
        key,
        kept,
        registry,
        topics,
        control,
    ]
    found = [check(settings) for check in checks]
    return [
        *found,
        port("serve", settings.serve.host, settings.serve.port),
        port("learn", settings.learn.host, settings.learn.port),
    ]


def python(settings: Settings) -> Check:
    """Interpreter and platform."""
    version = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform == "win32":
        return Check(name="python", standing="broken", text=f"{version}.", remedy="On Windows, run inside WSL2.")
    if sys.version_info < MINIMUM_PYTHON:
        return Check(
            name="python", standing="broken", text=f"{version} is too old.", remedy="Install Python 3.11 or newer."
        )
    return Check(name="python", standing="good", text=f"{version}, SQLite {sqlite3.sqlite_version}.")


def model(settings: Settings) -> Check:
    """Whether the base model is on this machine, without asking the network."""
    from stream_ft.model.base import resolve

    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        base = resolve(settings.model.base)
    except StreamFTError as error:
        return Check(name="model", standing="broken", text=error.message, remedy=error.remedy)
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
    return Check(name="model", standing="good", text=f"{base.name} in {base.path} (sha256 {base.sha256[:12]}).")


def device(settings: Settings) -> Check:
    """torch, and the device that ``model.device`` asks for."""
    if importlib.util.find_spec("torch") is None:
        return Check(name="device", standing="broken", text="torch is not installed.", remedy="Run make setup.")
    from stream_ft.model.engines.torch_engine import pick_device

    version = importlib.metadata.version("torch")
    try:
        found = pick_device(settings.model.device)
    except StreamFTError as error:
        return Check(
            name="device",
            standing="broken",
            text=f"model.device: {error.message}",
            remedy="Set it to auto; for a GPU, install a CUDA build of torch: STREAM_FT_ALLOW_CUDA=1 make setup.",
        )
    where = f"the CPU ({os.cpu_count()} cores)" if found.type == "cpu" else str(found)
    return Check(name="device", standing="good", text=f"torch {version} on {where}.")


def engine(settings: Settings) -> Check:
    """What runs a forward; what is not known yet is found out at the first start, not here."""
    from stream_ft.model.base import resolve
    from stream_ft.model.engines import choose

    kind, threads = settings.model.engine, settings.model.threads
    if kind == "torch":
        return Check(name="engine", standing="good", text="torch, as model.engine says.")
    try:
        known = choose.remembered(resolve(settings.model.base), settings.cache_path(), kind=kind, threads=threads)
    except StreamFTError:
        return Check(name="engine", standing="careful", text="not known: the model is not here.", remedy="See model.")
    if isinstance(known, str):
        standing: Literal["good", "broken"] = "broken" if kind == "onnx" else "good"
        return Check(name="engine", standing=standing, text=f"torch: {known}", remedy="Set model.engine to auto.")
    if known is None:
        return Check(name="engine", standing="good", text=f"{kind}: not measured yet; the first start does it.")
    told = "; ".join(f"{t.engine} on {t.threads}: {t.p50_ms:.1f} ms a text" for t in known.trials)
    return Check(name="engine", standing="good", text=f"{known.engine} on {known.threads} threads ({told}).")


def state_folder(settings: Settings) -> Check:
    """Whether the state folder, or the nearest folder above it, can be written."""
    folder = settings.state_path()
    there = _nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".stream-ft-doctor-"):
            pass
    except OSError as error:
        return Check(
            name="state",
            standing="broken",
            text=f"{there} cannot be written: {error.strerror}.",
            remedy="Choose another folder with --state-dir, or mend its permissions.",
        )
    return Check(name="state", standing="good", text=f"{folder}" + ("." if folder.exists() else " (not there yet)."))


def disk(settings: Settings) -> Check:
    """Free disk where the state lies."""
    free = shutil.disk_usage(_nearest(settings.state_path())).free // 1_000_000
    text = f"{free / 1000:.1f} GB free for {settings.state_path()}."
    remedy = "Free some, or move the state with --state-dir."
    if free < LEAST_DISK_MB:
        return Check(name="disk", standing="broken", text=text, remedy=remedy)
    if free < ENOUGH_DISK_MB:
        return Check(name="disk", standing="careful", text=text, remedy=remedy)
    return Check(name="disk", standing="good", text=text)


def key(settings: Settings) -> Check:
    """The key that signs the ids of predictions; serving does not start with one that cannot be read."""
    path = settings.key_path()
    if not path.exists():
        return Check(name="key", standing="good", text="none yet; the first start makes one.")
    try:
        load_key(path)
    except ConfigError as error:
        return Check(name="key", standing="broken", text=error.message, remedy=error.remedy)
    except OSError as error:
        return Check(name="key", standing="broken", text=f"{path}: {error.strerror}.", remedy="Mend its permissions.")
    return Check(name="key", standing="good", text=f"{path.name} can be read.")


def kept(settings: Settings) -> Check:
    """What a process has left for its next start and for others to read."""
    from stream_ft.release.state_file import decode_state
    from stream_ft.serve.follow import Kept

    decoders: dict[str, Callable[[bytes], object]] = {
        "serve.state": lambda data: decode_state(msgspec.json.decode(data, type=Kept).state),
        "learn.status.json": lambda data: msgspec.json.decode(data, type=dict[str, Any]),
    }
    there = []
    for name, decode in decoders.items():
        path = settings.state_path() / name
        try:
            decode(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            remedy = "Stop stream-ft and remove it."
            return Check(name="kept", standing="broken", text=f"{path}: {error.strerror}.", remedy=remedy)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ConfigError):
            remedy = "It is made anew when stream-ft runs: nothing is lost."
            return Check(name="kept", standing="careful", text=f"{path} is damaged.", remedy=remedy)
        there.append(name)
    return Check(name="kept", standing="good", text=f"{', '.join(there) or 'nothing yet'}.")


def databases(settings: Settings) -> Check:
    """SQLite's own check of every file of events, examples and commands."""
    checked = []
    for path in sorted(settings.state_path().glob("*.db")):
        try:
            # Read-only: SQLite may still need to write the -shm file of a WAL, which is no change to the data.
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
            try:
                said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            finally:
                connection.close()
        except sqlite3.Error as error:
            said = str(error)
        if said != "ok":
            return Check(
                name="logs",
                standing="broken",
                text=f"{path} is damaged: {said}.",
                remedy="Stop stream-ft, move the file away, and restore a copy of it or start anew.",
            )
        checked.append(path.name)
    return Check(name="logs", standing="good", text=f"{', '.join(checked) or 'none yet'}.")


def registry(settings: Settings) -> Check:
    """Every version's bytes against their names."""
    from stream_ft.release.registry import Registry

    root = settings.registry_path()
    if not root.is_dir():
        return Check(name="versions", standing="good", text="none yet.")
    store = Registry(root)
    bad = []
    for kind, names, read in (("base", store.list(), store.get), ("head", store.list_heads(), store.get_head)):
        for name in names:
            try:
                read(name)
            except ArtifactError as error:
                bad.append(f"{kind} {name[:12]} ({error.step})")
    if bad:
        return Check(
            name="versions",
            standing="broken",
            text=f"Not what their names say: {', '.join(bad)}.",
            remedy="They will not be loaded. If one is in force, roll back: stream-ft control rollback.",
        )
    return Check(
        name="versions",
        standing="good",
        text=f"{len(store.list())} bases and {len(store.list_heads())} heads, hashes right.",
    )


def topics(settings: Settings) -> Check:
    """Whether the topics of a broker are as they must be; it makes none."""
    from stream_ft.ports import Brokered
    from stream_ft.topics import KINDS, topic
    from stream_ft.wiring.broker import open_event_log

    try:
        log = open_event_log(settings, writes=[], patience_s=BROKER_S)
    except ConfigError as error:
        return Check(name="topics", standing="broken", text=error.message, remedy=error.remedy)
    try:
        if not isinstance(log, Brokered):
            return Check(name="topics", standing="good", text="in files of the state folder: there is no broker.")
        flaws = log.examine([topic(settings.model.name, kind) for kind in KINDS])
    except StreamFTError as error:
        return Check(name="topics", standing="broken", text=error.message, remedy=error.remedy)
    finally:
        log.close()
    if not flaws:
        return Check(name="topics", standing="good", text=f"{len(KINDS)} on {settings.broker}, as they must be.")
    serious = [flaw for flaw in flaws if flaw.serious]
    worst = serious or flaws
    return Check(
        name="topics",
        standing="broken" if serious else "careful",
        text=" ".join(flaw.text for flaw in worst),
        remedy=" ".join(dict.fromkeys(flaw.remedy for flaw in worst)),
    )


def control(settings: Settings) -> Check:
    """What the control log says, and whether its release can be loaded."""
    from stream_ft.release.registry import Registry
    from stream_ft.wiring.operator import look

    folder = settings.state_path()
    known = any((folder / name).exists() for name in ("control.db", "serve.state"))
    if not known and settings.broker == "sqlite://":
        return Check(name="control", standing="good", text="nothing was started here yet.")
    try:
        state = look(settings).state
        Registry(settings.registry_path()).get_head(state.start_head)
    except ArtifactError as error:
        return Check(
            name="control",
            standing="broken",
            text=f"{state.version} is in force, but cannot be loaded: {error.message}",
            remedy="Roll back to one that can: stream-ft control rollback --to previous.",
        )
    except StreamFTError as error:
        return Check(name="control", standing="broken", text=error.message, remedy=error.remedy)
    if state.paused or state.pinned:
        flags = " and ".join(name for name in ("paused", "pinned") if getattr(state, name))
        return Check(
            name="control",
            standing="careful",
            text=f"{state.version} is in force, {flags}: nothing is promoted.",
            remedy="stream-ft control resume, or unpin.",
        )
    return Check(
        name="control", standing="good", text=f"{state.version} is in force, led by {state.leader or 'nobody'}."
    )


def port(role: str, host: str, number: int) -> Check:
    """Whether a port can be bound."""
    name = f"port of {role}"
    if number == 0:
        return Check(name=name, standing="good", text="a free one is taken.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        return Check(
            name=name, standing="broken", text=f"{host} is no address of this machine.", remedy=f"Set {role}.host."
        )
    except OSError as error:
        remedy = f"If that is not stream-ft itself, choose another: --set {role}.port=0 takes a free one."
        busy = error.errno == errno.EADDRINUSE
        return Check(
            name=name,
            standing="careful" if busy else "broken",
            text=f"{host}:{number} is in use." if busy else f"{host}:{number}: {error.strerror}.",
            remedy=remedy,
        )
    return Check(name=name, standing="good", text=f"{host}:{number} is free.")


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
