"""The files that pass between the learner and a round: what to do, and what came of it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["head", "lora", "partial", "full", "scratch"]


class Job(Struct, frozen=True, kw_only=True):
    """``job.json``: one round's orders. Beside it lie ``train.jsonl`` and ``evaluate.jsonl``, one Example a line."""

    kind: Kind
    base_model: str
    """Folder or Hugging Face name of the pretrained model."""
    champion_base: str
    """sha256 of the active base: embeddings that carry it need not be computed again."""
    champion_dir: str = ""
    """Folder of the active base in the registry."""
    champion_head: str = ""
    """File of the active head."""
    task: str = "classification"
    seed: int = 0
    steps: int = 48
    batch: int = 32
    fresh_share: float = 0.5
    fresh_after_seq: int = 0
    """Examples with a greater ``seq`` are fresh: the last encoder round did not have them."""
    learning_rate: float = 5e-4
    rank: int = 8
    last_layers: int = 2
    seconds: float | None = None
    """The round ends its training by itself after this long; ``None``: steps alone bound it."""
    threads: int = 1
    projection: int = 2_000
    experts: list[str] = []
    """Learners of the fast tier: a new base is compared, and goes on, with one taught on it. Empty: there is none."""
    max_tokens: int = 128
    device: str = "auto"
    engine: Literal["auto", "onnx", "torch"] = "auto"
    quantize: Literal["none", "int8", "int4"] = "none"
    """How the model is held that serves: a candidate is embedded, and so judged, as it will be served."""
    cache: str = ""
    """Folder of exported graphs; needed where ``quantize`` is not ``none``."""
    examples_upto: int = 0
    epoch: int = 0
    """Epoch in which the round started: the fence of the promotion that may follow."""


class Result(Struct, frozen=True, kw_only=True):
    """``result.json``, written last and by rename: if it is there, all the other files are whole.

    Beside it: ``head.safetensors`` (the candidate's head), ``tier.safetensors`` (the fast tier that gives it) where the
    job has experts, and for a round that trained the encoder the folder
    ``candidate/`` (files of the new base, without a manifest) and ``embeddings.safetensors`` (``ids`` int64 ``[N]``,
    ``embeddings`` float16 ``[N, dim]`` of training and evaluation examples under the new base).
    """

    ok: bool
    reason: str = ""
    kind: Kind
    examples_upto: int
    steps: int = 0
    skipped_steps: int = 0
    losses: list[float] = []
    train_s: float = 0.0
    """Wall seconds of all steps."""
    cpu_s: float = 0.0
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    gpu_peak_mb: float = 0.0
    """0 where no GPU was used."""
    train_examples: int = 0
    scores_champion: list[float] = []
    """Per evaluation example: 1 or 0 for classes, minus the loss for a language model."""
    scores_candidate: list[float] = []
    classes: list[str] | None = None
    """The right class of each evaluation example; ``None`` where there are no classes."""
    sources: list[str] = []
    """Who said what is right of each evaluation example."""
    met_live: list[float] = []
    """Of the events that came before it was brought up to date: was the answer that was given right (1 or 0)?"""
    met_candidate: list[float] = []
    """Of the same events: would the candidate's have been, before it learned from them?"""
