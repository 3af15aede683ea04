"""Which engine encodes: ``torch``, ``onnx``, or whichever is faster here, as measured once and remembered.

The exported graph and the measurement lie in a cache folder by the hashes of the model, shared by all processes of a
user. Both are made by processes of their own, one at a time.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.model.base import BaseFolder, tokenizer_sha256
from stream_ft.model.engines import Engine
from stream_ft.model.engines.graph import FORMAT, MAP

log = logging.getLogger("stream_ft.model.engines")

Kind = Literal["auto", "onnx", "torch"]

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd")
"""Where none of these is, nobody needs to look at torch to learn that there is no GPU."""
EXPORT_S, MEASURE_S = 900, 300
CGROUP = Path("/sys/fs/cgroup")
QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
MOST_CORES, MOST_LANES = 4_096, 8
MEASURED = 5
"""Grows when an engine encodes in another way, or is measured in another: older choices say nothing then."""


class Trial(Struct, frozen=True, kw_only=True):
    """One way to encode, measured beside a process that is busy, as a round is."""

    engine: str
    threads: int
    spinning: bool = False
    p50_ms: float
    """Median time of one text."""
    cpu_ms: float
    """CPU of one text, of all threads."""


class Choice(Struct, frozen=True, kw_only=True):
    """The way that was chosen, and what it was chosen from."""

    engine: str
    threads: int
    spinning: bool = False
    trials: list[Trial] = []


def open_engine(
    base: BaseFolder,
    *,
    cache: Path,
    kind: Kind = "auto",
    max_tokens: int = 128,
    threads: int = 0,
    device: str = "auto",
    measured: bool = True,
    gives_way: bool = False,
    whole: bool = False,
) -> Engine:
    """An engine for an encoder.

    Args:
        base: the pretrained model.
        cache: folder of exported graphs and measurements.
        kind: ``auto`` takes torch on a GPU, and on a CPU the faster of the two; torch where the model has no graph.
        max_tokens: inputs are cut to this many tokens.
        threads: of a forward; 0 takes what was measured to be best.
        device: of torch; ``onnx`` runs on the CPU.
        measured: false takes ONNX without measuring, and one thread, so that a run can be repeated elsewhere.
        gives_way: versions are built beside forwards that must not feel it.
        whole: ONNX takes all cores for a large call, also where a forward has one thread, and keeps what that needs.

    Raises:
        ConfigError: ``onnx`` was asked for and cannot be had, or there is no such device.
    """
    if kind == "torch" or (kind == "auto" and on_gpu(device)):
        return _torch(base, max_tokens, max(threads, 1), device)
    try:
        folder = graph_folder(base, cache)
        choice = Choice(engine="onnx", threads=max(threads, 1))
        if measured and (kind == "auto" or threads == 0):
            choice = chosen(base, folder, cache, kind=kind, threads=threads)
    except OSError as error:
        raise ConfigError(
            f"The cache folder {cache} cannot be used: {error.strerror}.",
            "Name another one with model.cache_dir, or set model.engine to torch.",
        ) from error
    except ArtifactError as error:
        if kind == "onnx":
            raise ConfigError(
                f"There is no ONNX engine for {base.name}: {error.message}", "Set model.engine to auto."
            ) from error
        log.warning("torch serves %s: %s", base.name, error.message)
        return _torch(base, max_tokens, max(threads, 1), device)
    if choice.engine == "torch":
        return _torch(base, max_tokens, choice.threads, device)
    from stream_ft.model.engines.onnx_engine import OnnxEngine

    try:
        return OnnxEngine(
            base,
            folder,
            max_tokens=max_tokens,
            threads=choice.threads,
            spinning=choice.spinning,
            gives_way=gives_way,
            lanes=lanes(choice.threads) if whole else 1,
        )
    except ArtifactError as error:
        if kind == "onnx":
            raise ConfigError(error.message, f"Remove {folder}, or set model.engine to torch.") from error
        log.warning("torch serves %s: %s", base.name, error.message)
        return _torch(base, max_tokens, choice.threads, device)


def remembered(base: BaseFolder, cache: Path, *, kind: Kind, threads: int) -> Choice | str | None:
    """What an earlier start found: the choice, or why the model has no graph; ``None`` if nobody has asked yet."""
    _, refusal = _places(base, cache)
    if refusal.is_file():
        return refusal.read_text(encoding="utf-8")
    return _read(_measured(base, cache, kind, threads))


def cache_key(base: BaseFolder) -> str:
    """What a model is called in the cache: by its weights, and by what else tells what is computed with them.

    The same weights under another configuration are another graph, and beside another tokenizer they get other ids.
    """
    parts = [tokenizer_sha256(base.path)]
    for name in ("config.json", "tokenizer_config.json"):
        file = base.path / name
        parts.append(hashlib.sha256(file.read_bytes() if file.is_file() else b"").hexdigest())
    return f"{base.sha256[:24]}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def _places(base: BaseFolder, cache: Path) -> tuple[Path, Path]:
    """Of the graph, and of the reason why there is none."""
    folder = cache / "graphs" / f"{cache_key(base)}-{FORMAT}"
    return folder, folder.with_name(f"{folder.name}-torch-{version('torch')}.txt")


def _measured(base: BaseFolder, cache: Path, kind: Kind, threads: int) -> Path:
    return cache / "measured" / f"{MEASURED}-{cache_key(base)}-{_machine()}-{kind}-{threads}.json"


def graph_folder(base: BaseFolder, cache: Path) -> Path:
    """The folder of the exported graph; it is exported if nobody has done so yet.

    Raises:
        ArtifactError: step ``export``: the model has no such form. That is remembered beside where it would be.
    """
    folder, refusal = _places(base, cache)
    if not (folder / MAP).is_file() and not refusal.is_file():
        with _alone(cache):
            if not (folder / MAP).is_file() and not refusal.is_file():
                log.info("%s is exported to ONNX, once: this takes up to half a minute", base.name)
                ran = _run("stream_ft.model.export", [str(base.path), str(folder)], EXPORT_S)
                if ran.returncode:
                    told = ran.stderr.strip().splitlines()
                    reason = told[-1] if ran.returncode == 3 and told else f"the export ended with {ran.returncode}."
                    if ran.returncode == 3:
                        refusal.parent.mkdir(parents=True, exist_ok=True)
                        refusal.write_text(reason, encoding="utf-8")
                    else:
                        raise ArtifactError("export", reason)
    if refusal.is_file() and not (folder / MAP).is_file():
        raise ArtifactError("export", refusal.read_text(encoding="utf-8"))
    return folder


def chosen(base: BaseFolder, folder: Path, cache: Path, *, kind: Kind, threads: int) -> Choice:
    """What was measured to be best on this machine; measured if nobody has done so yet.

    Args:
        folder: of the exported graph.
    """
    path = _measured(base, cache, kind, threads)
    if (found := _read(path)) is not None:
        return found
    with _alone(cache):
        if (found := _read(path)) is not None:
            return found
        log.info("the engines are measured, once on this machine: this takes some seconds")
        ran = _run("stream_ft.model.measure", [str(base.path), str(folder), kind, str(threads)], MEASURE_S)
        try:
            if ran.returncode:
                raise ValueError(ran.stderr.strip().splitlines()[-1:] or ran.returncode)
            choice = msgspec.json.decode(ran.stdout.strip().splitlines()[-1], type=Choice)
        except (ValueError, IndexError, msgspec.MsgspecError) as error:
            log.warning("the engines could not be measured (%s); ONNX on one thread is taken", error)
            return Choice(engine="onnx", threads=max(threads, 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(choice))
        draft.replace(path)
    for trial in choice.trials:
        log.info(
            "%s, %d threads%s: %.1f ms, %.1f ms of CPU a text",
            trial.engine, trial.threads, ", spinning" if trial.spinning else "", trial.p50_ms, trial.cpu_ms,
        )  # fmt: skip
    return choice


def best(trials: list[Trial], kind: str = "auto") -> Choice:
    """The fastest way, of those that cost no more CPU than torch as it comes, which takes a thread for each core.

    A request that is answered sooner by burning the cores that others need is not answered sooner under load.

    Args:
        trials: of torch, too, where there is more than one way.
        kind: ``auto`` takes any engine, ``onnx`` that one; if all its ways cost more than torch, the cheapest.
    """
    plain = [trial for trial in trials if trial.engine == "torch"]
    most = max(plain, key=lambda trial: trial.threads).cpu_ms if plain else math.inf
    able = [trial for trial in trials if kind in ("auto", trial.engine)]
    modest = [trial for trial in able if trial.cpu_ms <= most]
    winner = min(modest, key=lambda trial: trial.p50_ms) if modest else min(able, key=lambda trial: trial.cpu_ms)
    return Choice(engine=winner.engine, threads=winner.threads, spinning=winner.spinning, trials=trials)


def _read(path: Path) -> Choice | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Choice)
    except (OSError, msgspec.MsgspecError):
        return None


def _machine() -> str:
    parts = (platform.machine(), _processor(), str(cores()), version("torch"), version("onnxruntime"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def cores() -> int:
    """Cores that this process may use: those it may run on, and no more than the quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(_quota())))


def _quota() -> float:
    """Cores by the limit of the control group (version 2, then 1); very many without one."""
    for names in QUOTAS:
        try:
            limit, period = " ".join((CGROUP / name).read_text(encoding="ascii") for name in names).split()
            if float(limit) > 0:
                return float(limit) / float(period)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return float(MOST_CORES)


def lanes(threads: int) -> int:
    """Forwards that may run at once: as many as one may have threads, or a core each where it has one."""
    return min(cores(), MOST_LANES, threads if threads > 1 else MOST_LANES)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def on_gpu(device: str) -> bool:
    """Whether torch would run on a GPU there, without importing it."""
    if device != "auto":
        return device != "cpu"
    return any(Path(name).exists() for name in GPU_FILES) and _built_for_gpus()


def _built_for_gpus() -> bool:
    """Whether the torch that is installed is a build for CUDA or ROCm: ``torch/version.py`` says so."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        tree = ast.parse(Path(spec.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return False
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        named = any(isinstance(target, ast.Name) and target.id in ("cuda", "hip") for target in targets)
        if named and isinstance(value := getattr(node, "value", None), ast.Constant) and value.value:
            return True
    return False


def _torch(base: BaseFolder, max_tokens: int, threads: int, device: str) -> Engine:
    from stream_ft.model.engines.torch_engine import TorchEngine

    return TorchEngine(base, max_tokens=max_tokens, threads=threads, device=device)


def _run(module: str, arguments: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(module, 124, "", f"no end after {seconds:g} s")


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One process at a time exports or measures; the others wait for what it finds."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
