"""What the others would have answered: the model frozen after its first labels, and a plain online softmax.

A process of its own, so that its forwards hold up neither the server nor the client:
``python -m stream_ft.demo.compare REGISTRY MODEL`` reads one JSON order a line and answers each with one line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class Freeze(Struct, frozen=True, kw_only=True, tag_field="order", tag="freeze"):
    """From now on the frozen model is this release."""

    base: str
    head: str


class Stream(Struct, frozen=True, kw_only=True, tag_field="order", tag="stream"):
    """Messages with their labels, in order: each is answered, then the softmax learns it."""

    rows: list[tuple[str, str]]


class Final(Struct, frozen=True, kw_only=True, tag_field="order", tag="final"):
    """Messages to answer; nobody learns."""

    texts: list[str]


class Guesses(Struct, frozen=True, kw_only=True):
    """Answers to an order, one a row; ``frozen`` is ``None`` before there is a frozen model."""

    frozen: list[str] | None
    softmax: list[str]


class Comparison:
    """The process, seen from the demo. Orders are answered in turn; :meth:`ask` may be called from any thread.

    Args:
        registry: folder of the released files.
        model: Hugging Face name or path of the encoder.
    """

    def __init__(self, registry: Path, model: str) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stream_ft.demo.compare", str(registry), model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,
        )

    def ask(self, order: Freeze | Stream | Final) -> Guesses:
        """Give one order and wait for its answer.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(msgspec.json.encode(order) + b"\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = b""
            if not line:
                raise RuntimeError("the comparison has ended")
            return msgspec.json.decode(line, type=Guesses)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def serve(registry: Path, model: str) -> None:
    """Answer orders from standard input until it ends."""
    os.nice(10)
    # The engine brings torch, which only this process may wait for.
    from stream_ft.learn.baseline import OnlineSoftmax
    from stream_ft.model.base import base_files, resolve
    from stream_ft.model.engines.torch_engine import TorchEngine
    from stream_ft.model.mixture import AnyHead, read_head
    from stream_ft.release.registry import Registry

    folder = resolve(model)
    engine = TorchEngine(folder, threads=1, device="cpu")
    engine.prepare("pretrained", base_files(folder))
    softmax = OnlineSoftmax(engine.dim)
    head: AnyHead | None = None
    frozen_base = "pretrained"

    def answers(texts: Sequence[str]) -> tuple[list[str] | None, Any]:
        engine.activate("pretrained")
        plain = engine.encode(texts)
        if head is None:
            return None, plain
        if frozen_base == "pretrained":
            return [label for label, _ in head.predict(plain)], plain
        engine.activate(frozen_base)
        return [label for label, _ in head.predict(engine.encode(texts))], plain

    decoder = msgspec.json.Decoder(Freeze | Stream | Final)
    for line in sys.stdin.buffer:
        order = decoder.decode(line)
        frozen: list[str] | None = None
        guesses: list[str] = []
        if isinstance(order, Freeze):
            files = Registry(registry)
            head = read_head(files.get_head(order.head))
            engine.prepare(order.base, files.get(order.base))
            frozen_base = order.base
        elif isinstance(order, Stream):
            frozen, embeddings = answers([text for text, _ in order.rows])
            for (_, label), embedding in zip(order.rows, embeddings, strict=True):
                guesses.append(softmax.predict(embedding))
                softmax.learn(embedding, label)
        else:
            frozen, embeddings = answers(order.texts)
            guesses = [softmax.predict(embedding) for embedding in embeddings]
        sys.stdout.buffer.write(msgspec.json.encode(Guesses(frozen=frozen, softmax=guesses)) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
