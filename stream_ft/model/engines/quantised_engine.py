"""The engine for a model that is quantised in torch: its matrices are integers, adapters run beside them unmerged.

An adapter merged into integers would be rounded away, so it is added to what the layer gives: ``W x + B (A x)``
(Hu et al. 2021, arXiv:2106.09685). A base is then an immutable set of such pairs, and a flip replaces one reference:
the layers look up their pair in the set that is in force, so none can keep one of the version before.
"""

from __future__ import annotations

import copy
import importlib.util
import threading
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.model.base import Architecture, BaseFolder, Tokenizer, load_model
from stream_ft.model.engines import nothing
from stream_ft.model.engines.one_thread import OneThread, in_passing
from stream_ft.model.engines.pooling import embedded, states_of
from stream_ft.model.engines.torch_engine import live_tensors, pick_device
from stream_ft.model.golden import COARSE, ROUNDED
from stream_ft.model.tensors import low_rank

Bits = Literal["int8", "int4"]
GROUP = 32
"""Values of a row of a matrix that share a scale, in 4 bits; in 8 bits it is a whole row."""

Pairs = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""``(A [r, in], scaling * B [out, r])`` by the name of the layer."""


class QuantisedEngine:
    """Mean-pooled embeddings of a model whose linear layers hold integers, under one of several sets of adapters.

    Args:
        base: the pretrained model.
        bits: ``int8``: a scale for each row of a matrix. ``int4``: a scale for every 32 values of a row; torchao keeps
            each in a byte, so that it is no smaller.
        max_tokens: inputs are cut to this many tokens.
        threads: of a forward, in the whole process (torch has one pool).
        device: ``auto``, ``cpu``, ``cuda`` ...
        architecture: ``encoder``, or ``causal-lm`` whose decoder states are pooled.

    Raises:
        ConfigError: torchao is not installed.
    """

    def __init__(
        self,
        base: BaseFolder,
        *,
        bits: Bits,
        max_tokens: int = 128,
        threads: int = 1,
        device: str = "auto",
        architecture: Architecture = "encoder",
    ) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.bits = bits
        self.tolerance = ROUNDED if bits == "int8" else COARSE
        self.device = pick_device(device)
        self.tokenizer = Tokenizer(base.path, max_tokens)
        self._base = base
        module = load_model(base.path, architecture)
        self._dim = int(module.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self._shapes = {name: tuple(tensor.shape) for name, tensor in live_tensors(module).items()}
        quantise(module, bits, self.device)
        self._force, self._tried = InForce(), InForce()
        self._layers = unmerge(module, self._force)
        self._decoder = states_of(module, architecture)
        # The same layers and weights reading another set: a trial runs beside whoever answers.
        shared: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
        shared |= {id(buffer): buffer for buffer in module.buffers()}
        self._twin = states_of(copy.deepcopy(module, shared | {id(self._force): self._tried}), architecture)
        self._sets: dict[str, Pairs] = {}
        self._alone = OneThread()
        self._one_trial = threading.Lock()

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._dim

    def prepared(self, name: str) -> bool:
        """Whether ``activate`` would find this base."""
        return name in self._sets

    def prepare(self, name: str, files: dict[str, bytes], between: Callable[[], None] = nothing) -> None:
        """Check the adapter of base ``name`` and keep it; on any thread, the active set is not touched.

        Raises:
            ArtifactError: with the check that failed.
        """
        if name in self._sets:
            return
        pairs = low_rank(files, shapes=self._shapes, base_sha256=self._base.sha256)
        between()
        if odd := sorted(pairs.keys() - self._layers):
            raise ArtifactError("keys", f"The adapter changes {odd[0]}, which is not a linear layer.")
        self._sets[name] = {
            layer: (torch.from_numpy(down).to(self.device), torch.from_numpy(up).to(self.device))
            for layer, (down, up) in pairs.items()
        }

    def complete(self) -> bool:
        """A prepared set is complete."""
        return True

    def trial(self, name: str, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """What :meth:`encode` would give under a prepared set; on any thread, the active set is not touched.

        Raises:
            KeyError: the set was not prepared, or was dropped.
        """
        wanted = self._sets[name]
        with self._one_trial:
            self._tried.pairs = wanted
            try:
                return in_passing(lambda: self._encoded(self._twin, texts))
            finally:
                self._tried.pairs = {}

    def activate(self, name: str) -> None:
        """Encode with a prepared set from now on: one reference changes.

        Raises:
            KeyError: the set was not prepared, or was dropped.
        """
        wanted = self._sets[name]
        with self._alone:
            self._force.pairs = wanted

    def hold(self, names: Collection[str]) -> None:
        """Nothing to do: no set is ever dropped to make room."""

    def drop(self, name: str) -> None:
        """Forget a prepared set; the active one stays in force until another is activated."""
        self._sets.pop(name, None)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Embeddings ``[B, dim]`` under the active set, fp16: as the served head reads them."""
        with self._alone:
            return self._encoded(self._decoder, texts)

    def _encoded(self, decoder: Any, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        return embedded(decoder, self.tokenizer, texts, dim=self._dim, device=self.device)


class InForce:
    """The set that layers read."""

    def __init__(self) -> None:
        self.pairs: Pairs = {}


class Unmerged(torch.nn.Module):
    """A linear layer and, beside it, the pair that the set in force has for it.

    Args:
        inner: the layer.
        name: under which a set knows it.
        force: where the set in force is.
    """

    def __init__(self, inner: torch.nn.Module, name: str, force: InForce) -> None:
        super().__init__()
        self.inner = inner
        self._name = name
        self._force = force

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` to ``[..., out]``."""
        y: torch.Tensor = self.inner(x)
        pair = self._force.pairs.get(self._name)
        if pair is None:
            return y
        down, up = pair
        return y + functional.linear(functional.linear(x, down), up)


def unmerge(module: torch.nn.Module, force: InForce) -> frozenset[str]:
    """Put an :class:`Unmerged` around every linear layer of ``module``, in place; the names of the layers."""
    names = [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)]
    for name in names:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, Unmerged(module.get_submodule(name), name, force))
    return frozenset(names)


def quantise(module: torch.nn.Module, bits: Bits, device: torch.device) -> None:
    """Make the weights of the linear layers integers, in place, and move the module to ``device``.

    Layers whose shape the format cannot hold stay as they are.

    Raises:
        ConfigError: torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(
            "model.quantize needs torchao in the torch engine, and it is not installed.",
            "In the checkout: .venv/bin/pip install -e '.[quantize]', or set model.quantize to none.",
        )
    with warnings.catch_warnings():  # its notices of what it will rename
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerGroup

        four: torch.dtype = torch.int4  # type: ignore[attr-defined]  # torch's stubs do not have it
        config = (
            Int8WeightOnlyConfig()
            if bits == "int8"
            else IntxWeightOnlyConfig(weight_dtype=four, granularity=PerGroup(GROUP))
        )
        whole = GROUP if bits == "int4" else 1
        quantize_(
            module.to(device),
            config,
            filter_fn=lambda layer, name: isinstance(layer, torch.nn.Linear) and layer.in_features % whole == 0,
        )
    module.eval()
