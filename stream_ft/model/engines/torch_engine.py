"""The engine on torch: a base is a set of tensors that the live module's parameters point at."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stream_ft.errors import ConfigError
from stream_ft.model.base import Architecture, BaseFolder, Tokenizer, load_model
from stream_ft.model.engines import nothing
from stream_ft.model.engines.one_thread import OneThread, in_passing
from stream_ft.model.engines.pooling import embedded, states_of
from stream_ft.model.golden import EXACT
from stream_ft.model.tensors import effective

COMPILED_ROWS = (1, 2)
"""Batches that are compiled for: one row is a case of its own, any other number is like two."""


def pick_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one.

    Raises:
        ConfigError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"There is no device {name} here.", "Set model.device to auto or cpu.") from error
    return device


class TorchEngine:
    """Mean-pooled embeddings of a Hugging Face model, under one of several prepared sets of tensors.

    Nothing is ever written into a tensor that is served: ``activate`` points ``.data`` of the live parameters at the
    set, and back at the pretrained tensors for what the set does not change.

    Args:
        base: the pretrained model.
        max_tokens: inputs are cut to this many tokens.
        threads: of a forward, in the whole process (torch has one pool).
        device: ``auto``, ``cpu``, ``cuda`` ...
        architecture: ``encoder``, or ``causal-lm`` whose decoder states are pooled.
        compiled: run ``torch.compile`` over the forward now, which takes up to minutes. Tensors stay arguments of what
            is compiled, so a flip compiles nothing anew. A trial is run uncompiled: it agrees but for rounding.

    Raises:
        ConfigError: there is no such device, or the model cannot be compiled.
    """

    def __init__(
        self,
        base: BaseFolder,
        *,
        max_tokens: int = 128,
        threads: int = 1,
        device: str = "auto",
        architecture: Architecture = "encoder",
        compiled: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.tolerance = EXACT
        self.device = pick_device(device)
        self.tokenizer = Tokenizer(base.path, max_tokens)
        self._base = base
        self._module = load_model(base.path, architecture).to(self.device)
        for parameter in self._module.parameters():
            parameter.requires_grad_(False)
        self._architecture = architecture
        self._decoder = states_of(self._module, architecture)
        self._dim = int(self._module.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self._live = live_tensors(self._module)
        self._tied = tied_names(self._module)
        self._pretrained = {name: tensor.data for name, tensor in self._live.items()}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in self._live.items()}
        self._dtypes = dtypes_of(self._live)
        self._sets: dict[str, dict[str, torch.Tensor]] = {}
        self._active: dict[str, torch.Tensor] = {}
        self._alone = OneThread()
        if compiled:
            self._compile()

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._dim

    @property
    def module(self) -> torch.nn.Module:
        """The live module under the active set, in ``eval``: for a task's scores. Not to be trained or changed."""
        return self._module

    def prepared(self, name: str) -> bool:
        """Whether ``activate`` would find this base."""
        return name in self._sets

    def prepare(self, name: str, files: dict[str, bytes], between: Callable[[], None] = nothing) -> None:
        """Build and check the set of base ``name``; on any thread, the active set is not touched.

        Raises:
            ArtifactError: with the check that failed.
        """
        if name in self._sets:
            return
        arrays = effective(
            files,
            shapes=self._shapes,
            dtypes=self._dtypes,
            tied=self._tied,
            pretrained=lambda key: self._pretrained[key].cpu().numpy(),
            base_sha256=self._base.sha256,
            between=between,
        )
        self._sets[name] = {key: self._laid_out(key, value) for key, value in arrays.items()}

    def _laid_out(self, key: str, value: npt.NDArray[np.float32]) -> torch.Tensor:
        """On the device, with the strides of the tensor in whose place it comes: a compiled forward relies on them."""
        tensor = torch.from_numpy(value).to(self.device)
        like = self._pretrained[key]
        return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)

    def complete(self) -> bool:
        """A prepared set is complete."""
        return True

    def trial(self, name: str, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """What :meth:`encode` would give under a prepared set; on any thread, by a second module of the same tensors.

        Raises:
            KeyError: the set was not prepared, or was dropped.
        """
        wanted = self._sets[name]

        def encoded() -> npt.NDArray[np.float16]:
            twin = _twin(self._module)
            live = live_tensors(twin)
            for key, pretrained in self._pretrained.items():
                live[key].data = wanted.get(key, pretrained)
            return self._encoded(states_of(twin, self._architecture), texts)

        return in_passing(encoded)

    def activate(self, name: str) -> None:
        """Point the live tensors at a prepared set.

        Raises:
            KeyError: the set was not prepared, or was dropped.
        """
        wanted = self._sets[name]
        with self._alone:
            for key in self._active.keys() - wanted.keys():
                self._live[key].data = self._pretrained[key]
            for key, value in wanted.items():
                self._live[key].data = value
            self._active = wanted

    def hold(self, names: Collection[str]) -> None:
        """Nothing to do: no set is ever dropped to make room."""

    def drop(self, name: str) -> None:
        """Forget a prepared set; the active one stays in force until another is activated."""
        self._sets.pop(name, None)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Embeddings ``[B, dim]`` under the active set, fp16: as the served head reads them."""
        with self._alone:
            return self._encoded(self._decoder, texts)

    def _compile(self) -> None:
        self._decoder = torch.compile(self._decoder, dynamic=True)
        try:
            for rows in COMPILED_ROWS:
                self.encode(["one text of some words"] * rows)
        except RuntimeError as error:  # of all that torch's compilers raise
            told = (str(error).strip().splitlines() or [""])[0]
            raise ConfigError(
                f"The model cannot be compiled: {type(error).__name__}: {told[:200]}",
                "It needs a C++ compiler (g++); or set model.compile to false.",
            ) from error

    def _encoded(self, decoder: Any, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        return embedded(decoder, self.tokenizer, texts, dim=self._dim, device=self.device)


def _twin(module: torch.nn.Module) -> torch.nn.Module:
    """A second module whose tensors are other objects on the same memory: pointing one elsewhere leaves the first."""
    shared: dict[int, Any] = {
        id(parameter): torch.nn.Parameter(parameter.data, requires_grad=False) for parameter in module.parameters()
    }
    shared |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    return copy.deepcopy(module, shared)


def live_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by their name in the state dict, the objects themselves."""
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    return {name: named[name] for name in module.state_dict()}


def dtypes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """By numpy's names."""
    return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}


def tied_names(module: torch.nn.Module) -> frozenset[str]:
    """Names that share memory with another name."""
    places = {name: tensor.data_ptr() for name, tensor in live_tensors(module).items() if tensor.numel()}
    count = Counter(places.values())
    return frozenset(name for name, place in places.items() if count[place] > 1)
