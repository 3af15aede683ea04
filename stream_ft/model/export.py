"""A pretrained encoder as an ONNX graph whose every weight can be found, and replaced, by its torch name.

Exporters rename and transpose weights, and give query, key and value of equal shapes names that say nothing. So the
graph is exported from a copy of the model in which every tensor was disturbed on its own: then a weight of the graph
is found by its values, and there is exactly one that fits. The real weights are written in its place.

Runs as a process of its own (``python -m stream_ft.model.export BASE FOLDER``): it needs torch and a lot of memory,
and what serves needs neither.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from stream_ft.errors import ModelNotFoundError, StreamFTError
from stream_ft.model.base import BaseFolder, Tokenizer, load_model, resolve
from stream_ft.model.engines.graph import GOLDEN, GRAPH, MAP, REST, WEIGHTS, GraphMap, Place
from stream_ft.model.plain_tokenizer import FILE, PROBES, PlainTokenizer, TokenizerFacts

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]

DISTURBANCE = 0.05
"""Standard deviation of the values in the copy that is exported."""
GOLDEN_ROWS, GOLDEN_TOKENS = 4, 16


class ExportError(StreamFTError):
    """A model that cannot be brought into this form; the torch engine serves it."""


def export(base: BaseFolder, folder: Path) -> None:
    """Write graph, weights, map and golden outputs of ``base`` as ``folder``; all of it or nothing.

    The golden outputs are those of torch on the CPU; whoever loads the graph compares its own with them.

    Raises:
        ExportError: torch cannot export the model, or a weight is not found in the graph exactly once.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".export-", dir=folder.parent))
    try:
        _write(base, draft)
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / MAP).is_file():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(base: BaseFolder, draft: Path) -> None:
    import onnx
    import torch

    from stream_ft.model.engines.torch_engine import live_tensors, tied_names

    module = load_model(base.path)
    tensors = {name: tensor.detach().numpy() for name, tensor in live_tensors(module).items()}
    raw, disturbed = _exported(module, draft)
    graph = onnx.load(raw)
    places = find(disturbed, {i.name: onnx.numpy_helper.to_array(i) for i in graph.graph.initializer})
    by_initializer = {place.initializer: (name, place) for name, place in places.items()}
    for initializer in graph.graph.initializer:
        if initializer.name in by_initializer:
            name, place = by_initializer[initializer.name]
            value = np.ascontiguousarray(tensors[name].T if place.transposed else tensors[name])
            initializer.CopyFrom(onnx.numpy_helper.from_array(value, initializer.name))
            onnx.external_data_helper.set_external_data(initializer, location=WEIGHTS)
    onnx.save(graph, draft / GRAPH)
    for used in (raw, raw.with_name(raw.name + ".data")):
        used.unlink(missing_ok=True)
    save_file({name: np.ascontiguousarray(tensors[name]) for name in tensors.keys() - places.keys()}, draft / REST)
    ids, mask = golden_inputs(int(module.config.vocab_size))  # type: ignore[union-attr, arg-type]
    with torch.inference_mode():
        golden = _pooled(module)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    save_file({"input_ids": ids, "attention_mask": mask, "pooled": golden}, draft / GOLDEN)
    described = GraphMap(
        base_sha256=base.sha256,
        dim=golden.shape[1],
        places=places,
        shapes={name: tuple(value.shape) for name, value in tensors.items()},
        dtypes={name: str(value.dtype) for name, value in tensors.items()},
        tied=sorted(tied_names(module)),
        tokenizer=tokenizer_facts(base.path),
    )
    (draft / MAP).write_bytes(described.to_bytes())


def tokenizer_facts(path: Path) -> TokenizerFacts | None:
    """What is needed to tokenize without transformers; ``None`` if its file alone gives other ids."""
    if not (path / FILE).is_file():
        return None
    for length in (8, 64, 1_000_000):
        usual = Tokenizer(path, length)
        facts = TokenizerFacts(longest=usual.max_tokens, pad_id=usual.pad_id)
        try:
            same = PlainTokenizer(path, facts, length)(list(PROBES)) == usual(list(PROBES))
        except Exception:  # the file is of a kind that the library does not know, or holds what it cannot do
            return None
        if not same:
            return None
    return facts


def golden_inputs(vocabulary: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and mask ``[B, T]`` of rows of different lengths, so that a mask that is not heeded is seen."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (GOLDEN_ROWS, GOLDEN_TOKENS), dtype=np.int64)
    lengths = np.linspace(1, GOLDEN_TOKENS, GOLDEN_ROWS).astype(int)
    mask = (np.arange(GOLDEN_TOKENS) < lengths[:, None]).astype(np.int64)
    return ids, mask


def _pooled(module: torch.nn.Module) -> torch.nn.Module:
    import torch

    from stream_ft.model.engines.pooling import mean_pool

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = module

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return mean_pool(states, attention_mask)

    return Pooled().eval()


def _exported(module: torch.nn.Module, draft: Path) -> tuple[Path, dict[str, Array]]:
    """The graph of a copy whose tensors were disturbed independently, and those tensors."""
    import torch

    from stream_ft.model.engines.torch_engine import live_tensors

    copied = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    live = {name: tensor for name, tensor in live_tensors(copied).items() if tensor.is_floating_point()}
    with torch.no_grad():
        for tensor in {tensor.data_ptr(): tensor for tensor in live.values()}.values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * DISTURBANCE)
    raw = draft / "raw.onnx"
    ids, mask = (torch.from_numpy(value) for value in golden_inputs(int(module.config.vocab_size)))  # type: ignore[union-attr, arg-type]
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _pooled(copied),
                (ids, mask),
                raw,
                input_names=["input_ids", "attention_mask"],
                output_names=["pooled"],
                dynamo=True,
                dynamic_shapes={"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}},
                external_data=True,
                verbose=False,
            )
    except Exception as error:  # whatever its many layers raise: this model is served by torch
        raise ExportError(f"torch cannot export the model to ONNX ({type(error).__name__}).") from error
    return raw, {name: tensor.detach().numpy() for name, tensor in live.items()}


def find(tensors: dict[str, Array], initializers: dict[str, Array]) -> dict[str, Place]:
    """Where each tensor lies in a graph, by value: as it is, or transposed.

    Args:
        tensors: by torch name; no two equal but where they are one and the same.
        initializers: of the graph, by its names.

    Returns:
        Places by torch name. Of tied names the first alphabetically; a tensor that the output does not depend on has
        no place.

    Raises:
        ExportError: a tensor lies in two places.
    """
    index: dict[bytes, list[Place]] = {}
    for name, value in initializers.items():
        if value.dtype != np.float32 or not value.size:
            continue
        index.setdefault(_key(value), []).append(Place(initializer=name, transposed=False))
        if value.ndim == 2:
            index.setdefault(_key(value.T), []).append(Place(initializer=name, transposed=True))
    found: dict[str, Place] = {}
    taken: dict[str, str] = {}
    for name in sorted(tensors):
        # A vector or a matrix of one row equals its transpose in memory but not in shape.
        places = index.get(_key(tensors[name]), [])
        if len(places) > 1:
            raise ExportError(f"The weight {name} lies in the graph {len(places)} times.")
        if places and places[0].initializer not in taken:
            found[name] = places[0]
            taken[places[0].initializer] = name
    return found


def _key(value: Array) -> bytes:
    shape = json.dumps(value.shape).encode()
    return shape + np.ascontiguousarray(value).tobytes()


def main() -> int:
    """``BASE FOLDER``: exit 0, or 3 with one sentence for a model that has no such form."""
    name, folder = sys.argv[1:]
    os.environ["HF_HUB_OFFLINE"] = "1"  # whoever asks has found the model already
    try:
        export(resolve(name), Path(folder))
    except (ExportError, ModelNotFoundError) as error:
        print(error.message, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
