"""A version's set: the effective tensors for what a base changes of the pretrained model, checked one by one.

An adapter is merged here, off the hot path, so that serving never runs one: for LoRA (Hu et al. 2021,
arXiv:2106.09685) ``W + scaling * B @ A`` with ``scaling = alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA
(Kalajdzievski 2023, arXiv:2312.03732). peft's own loading is not used: it drops and mixes tensors without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from stream_ft.errors import ArtifactError

Array = npt.NDArray[Any]
CONFIG, ADAPTER, TENSORS = "adapter_config.json", "adapter_model.safetensors", "tensors.safetensors"
MARKERS = ("base.json", "stream_ft.json")
"""Files that name the pretrained model by ``base_model_sha256``."""

_PREFIX = "base_model.model."
_MOST = 3.0e38


def effective(
    files: Mapping[str, bytes],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
    tied: Collection[str],
    pretrained: Callable[[str], Array],
    base_sha256: str,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Array]:
    """The tensors that a base changes, by their name in the module's state dict, float32; each, or its transpose, is
    contiguous.

    Args:
        files: of the base's folder: an adapter, or ``tensors.safetensors``, or neither (then nothing is changed).
        shapes: of every tensor of the module.
        dtypes: of every tensor of the module, by numpy's names; only what is float32 there can be changed.
        tied: names that share memory with another name: they may not be changed one by one.
        pretrained: the pretrained tensor of a name.
        base_sha256: of the pretrained model's weights.
        between: called after each tensor.

    Raises:
        ArtifactError: step ``base`` (made for another model), ``manifest`` (a file that cannot be read), ``missing``,
            ``keys``, ``shapes``, ``dtypes`` or ``finite``.
    """
    _check_base(files, base_sha256)
    if ADAPTER in files and TENSORS in files:
        raise ArtifactError("keys", f"A base has {ADAPTER} or {TENSORS}, not both.")
    if ADAPTER in files:
        result = _merged(files, shapes, pretrained, between)
    elif CONFIG in files:
        raise ArtifactError("missing", f"The base has {CONFIG} but no {ADAPTER}.")
    elif TENSORS in files:
        result = _full(files[TENSORS], shapes)
    else:
        return {}
    if shared := sorted(set(result) & set(tied)):
        raise ArtifactError("keys", f"The base changes {shared[0]}, which shares its memory with another tensor.")
    for name, value in result.items():
        if dtypes[name] != "float32":
            raise ArtifactError("dtypes", f"{name} is {dtypes[name]} in the model, and cannot be changed.")
        if value.size and not max(value.max(), -value.min()) <= _MOST:  # a NaN is the greatest and the least of all
            raise ArtifactError("finite", f"The tensor {name} holds values that are not finite.")
        between()
    return result


def _check_base(files: Mapping[str, bytes], base_sha256: str) -> None:
    for name in MARKERS:
        if name in files and _object(name, files[name]).get("base_model_sha256") != base_sha256:
            raise ArtifactError(
                "base",
                f"{name} says that the base was made for another pretrained model.",
                "Check the setting model.base, or start with another state folder.",
            )


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError("manifest", f"{name} is not JSON.") from error
    if not isinstance(value, dict):
        raise ArtifactError("manifest", f"{name} is not a JSON object.")
    return value


def _read(name: str, data: bytes) -> dict[str, Array]:
    try:
        return load_tensors(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError("manifest", f"{name} cannot be read as safetensors of numpy's types: {error}.") from error


def _full(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    tensors = _read(TENSORS, data)
    for name, value in tensors.items():
        if name not in shapes:
            raise ArtifactError("keys", f"The model has no tensor {name}.")
        if value.shape != shapes[name]:
            raise ArtifactError("shapes", f"{name} has the shape {value.shape}; the model's is {shapes[name]}.")
        if value.dtype != np.float32:
            raise ArtifactError("dtypes", f"{name} is {value.dtype}; expected float32.")
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def lora_targets(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Modules that an adapter's configuration names: equal to a target, or ending with ``.target``, as peft reads it.

    Raises:
        ArtifactError: step ``manifest``: targets given as a pattern, which this project does not write.
    """
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ArtifactError("manifest", f"{CONFIG} must list its target_modules by name.")
    ends = tuple("." + target for target in targets)
    exact = set(targets)
    modules = [
        name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2
    ]
    return sorted(module for module in modules if module in exact or module.endswith(ends))


def low_rank(
    files: Mapping[str, bytes], *, shapes: Mapping[str, tuple[int, ...]], base_sha256: str
) -> dict[str, tuple[Array, Array]]:
    """The adapter of a base as it is, for a model that it cannot be merged into.

    Args:
        files: of the base's folder: an adapter, or no tensors at all (then nothing is changed).
        shapes: of every tensor of the module.
        base_sha256: of the pretrained model's weights.

    Returns:
        ``(A [r, in], scaling * B [out, r])`` in float32 by the name of the module that they are added to.

    Raises:
        ArtifactError: as :func:`effective`; step ``keys`` also for a base of whole tensors.
    """
    _check_base(files, base_sha256)
    if TENSORS in files:
        raise ArtifactError(
            "keys",
            "The base changes whole tensors; a model that is quantised in torch takes adapters only.",
            "Set model.quantize to none, or go on with round.method lora or head.",
        )
    if ADAPTER not in files:
        if CONFIG in files:
            raise ArtifactError("missing", f"The base has {CONFIG} but no {ADAPTER}.")
        return {}
    config = _object_of(files, CONFIG)
    if config.get("fan_in_fan_out"):
        raise ArtifactError("manifest", f"{CONFIG} sets fan_in_fan_out, which only a merged adapter can have.")
    result = {}
    for module, a, b, scaling in _factors(files, config, shapes):
        scaled = b * np.float32(scaling)
        if not (np.isfinite(a).all() and np.isfinite(scaled).all()):
            raise ArtifactError("finite", f"The adapter of {module} holds values that are not finite.")
        result[module] = (a, scaled)
    return result


def _merged(
    files: Mapping[str, bytes],
    shapes: Mapping[str, tuple[int, ...]],
    pretrained: Callable[[str], Array],
    between: Callable[[], None],
) -> dict[str, Array]:
    config = _object_of(files, CONFIG)
    result: dict[str, Array] = {}
    for module, a, b, scaling in _factors(files, config, shapes):
        with np.errstate(over="ignore", invalid="ignore"):
            a = a * np.float32(scaling)
            left, right = (a.T, b.T) if config.get("fan_in_fan_out") else (b, a)
            weight = pretrained(module + ".weight")
            # The product is made in the order in which the weight lies in memory (a graph may hold a matrix the other
            # way round than torch does): a sum across two orders takes several times as long.
            if weight.flags.c_contiguous:
                merged = left @ right
                merged += weight
            else:
                turned = right.T @ left.T
                turned += weight.T
                merged = turned.T
        result[module + ".weight"] = merged
        between()
    return result


def _object_of(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        raise ArtifactError("missing", f"The base has {ADAPTER} but no {name}.")
    return _object(name, files[name])


def _factors(
    files: Mapping[str, bytes], config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Array, Array, float]]:
    """``(module, A, B, scaling)`` of each module that the adapter changes, checked."""
    rank, scaling = _scaling(config)
    tensors = _read(ADAPTER, files[ADAPTER])
    modules = lora_targets(config, shapes)
    names = {f"{_PREFIX}{m}.lora_{side}.weight" for m in modules for side in "AB"}
    if set(tensors) != names:
        odd = sorted(set(tensors) ^ names)
        raise ArtifactError("keys", f"{ADAPTER} and its configuration differ in {len(odd)} tensors, {odd[0]} first.")
    for module in modules:
        a, b = (tensors[f"{_PREFIX}{module}.lora_{side}.weight"] for side in "AB")
        if a.dtype != np.float32 or b.dtype != np.float32:
            raise ArtifactError("dtypes", f"The adapter of {module} is {a.dtype} and {b.dtype}; expected float32.")
        shape = shapes[module + ".weight"]
        rows, columns = shape[::-1] if config.get("fan_in_fan_out") else shape
        if a.shape != (rank, columns) or b.shape != (rows, rank):
            raise ArtifactError("shapes", f"The adapter of {module} has the shapes {a.shape} and {b.shape}.")
        yield module, a, b, scaling


def _scaling(config: Mapping[str, Any]) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        raise ArtifactError("manifest", f"{CONFIG} must describe a LoRA with r and lora_alpha.")
    for option in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform", "lora_bias"):
        if config.get(option):
            raise ArtifactError("manifest", f"{CONFIG} sets {option}, which cannot be merged here.")
    if config.get("bias", "none") != "none":
        raise ArtifactError("manifest", f"{CONFIG} trains biases, which cannot be merged here.")
    return rank, float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)  # type: ignore[arg-type]
