"""Engines that trade exactness or start-up time for speed or memory: only where the settings ask for one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.model.base import BaseFolder
from stream_ft.model.engines import Engine
from stream_ft.model.engines.choose import Choice, Kind, chosen, graph_folder, lanes, on_gpu, open_engine

Quantize = Literal["none", "int8", "int4"]


def open_variant(
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
    quantize: Quantize = "none",
    compiled: bool = False,
) -> Engine:
    """An engine for an encoder, quantised or compiled if that is asked for.

    Args:
        base: the pretrained model.
        cache: folder of exported graphs and measurements.
        kind: ``auto`` takes ONNX for 8 bits on a CPU, torch for 4 bits, on a GPU, and compiled.
        max_tokens: inputs are cut to this many tokens.
        threads: of a forward; 0 takes what was measured to be best for the exported graph, 1 in torch.
        device: of torch; ``onnx`` runs on the CPU.
        measured: false measures nothing and takes one thread.
        gives_way, whole: as of :func:`stream_ft.model.engines.choose.open_engine`.
        quantize: how weights are held.
        compiled: run ``torch.compile``.

    Raises:
        ConfigError: what is asked for cannot be had, or does not go together.
    """
    if quantize == "none" and not compiled:
        return open_engine(
            base,
            cache=cache,
            kind=kind,
            max_tokens=max_tokens,
            threads=threads,
            device=device,
            measured=measured,
            gives_way=gives_way,
            whole=whole,
        )
    if compiled and (kind == "onnx" or quantize != "none"):
        raise ConfigError(
            "model.compile is of the torch engine, for a model that is not quantised.",
            "Set model.engine to torch and model.quantize to none, or leave model.compile out.",
        )
    if compiled:
        from stream_ft.model.engines.torch_engine import TorchEngine

        return TorchEngine(base, max_tokens=max_tokens, threads=max(threads, 1), device=device, compiled=True)
    if quantize == "int4" and kind == "onnx":
        raise ConfigError(
            "model.quantize int4 is of the torch engine.", "Set model.engine to torch, or model.quantize to int8."
        )
    if adapters_only(kind=kind, quantize=quantize, device=device):
        return _in_torch(base, quantize, max_tokens, threads, device)
    try:
        return _int8_onnx(
            base,
            cache,
            max_tokens=max_tokens,
            threads=threads,
            measured=measured,
            gives_way=gives_way,
            whole=whole,
        )
    except OSError as error:
        raise ConfigError(
            f"The cache folder {cache} cannot be used: {error.strerror}.",
            "Name another one with model.cache_dir, or set model.engine to torch.",
        ) from error
    except ArtifactError as error:
        raise ConfigError(
            f"There is no 8-bit ONNX engine for {base.name}: {error.message}",
            "Set model.engine to torch, or model.quantize to none.",
        ) from error


def adapters_only(*, kind: Kind, quantize: Quantize, device: str) -> bool:
    """Whether the model would be quantised in torch, where a base cannot change tensors as a whole."""
    return quantize == "int4" or (quantize == "int8" and (kind == "torch" or on_gpu(device)))


def _in_torch(base: BaseFolder, quantize: Quantize, max_tokens: int, threads: int, device: str) -> Engine:
    from stream_ft.model.engines.quantised_engine import QuantisedEngine

    bits: Literal["int8", "int4"] = "int4" if quantize == "int4" else "int8"
    return QuantisedEngine(base, bits=bits, max_tokens=max_tokens, threads=max(threads, 1), device=device)


def _int8_onnx(
    base: BaseFolder, cache: Path, *, max_tokens: int, threads: int, measured: bool, gives_way: bool, whole: bool
) -> Engine:
    from stream_ft.model.engines.int8_graph import int8_graph
    from stream_ft.model.engines.onnx_engine import OnnxEngine

    folder = graph_folder(base, cache)
    choice = Choice(engine="onnx", threads=max(threads, 1))
    if measured and threads == 0:
        choice = chosen(base, folder, cache, kind="onnx", threads=0)
    return OnnxEngine(
        base,
        folder,
        max_tokens=max_tokens,
        threads=choice.threads,
        spinning=choice.spinning,
        int8=int8_graph(folder),
        gives_way=gives_way,
        lanes=lanes(choice.threads) if whole else 1,
    )
