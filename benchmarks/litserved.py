"""``litserved.py torch|onnx ADAPTER PORT THREADS WORKERS WAIT_MS``: the same model behind LitServe, a text a request.

Its batching is on; threads are those of each worker, 0 with ONNX what our own server would take.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import torch

from stream_ft.config import Settings
from stream_ft.model.base import MINILM, Tokenizer, resolve

BATCH = 32


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Tokenize, encode, pool, head: what our server does, in LitServe's words.

    Args:
        kind: ``torch`` or ``onnx``.
        adapter: folder of the peft adapter.
        threads: of a forward.
    """

    def __init__(self, kind: str, adapter: Path, threads: int, **settings: Any) -> None:
        super().__init__(api_path="/predict", **settings)
        self.kind, self.adapter, self.threads = kind, adapter, threads

    def setup(self, device: str) -> None:
        """In the worker process."""
        from adapter import merged
        from common import completed
        from serving import head_of

        base = resolve(MINILM)
        self.tokenizer = Tokenizer(base.path, 128)
        self.head = head_of(384)
        if self.kind == "torch":
            torch.set_num_threads(self.threads)
            self.model = merged(base, self.adapter)
        else:
            from stream_ft.model.engines.choose import open_engine

            files = {f.name: f.read_bytes() for f in self.adapter.iterdir() if f.suffix in {".json", ".safetensors"}}
            self.engine = open_engine(
                base, cache=Settings().cache_path(), kind="onnx", threads=self.threads, whole=True
            )
            self.engine.prepare("lora", files)
            self.engine.activate("lora")
            completed(self.engine)

    def decode_request(self, request: dict[str, str]) -> str:
        """One text."""
        return request["inputs"]

    def batch(self, inputs: list[str]) -> list[str]:
        """As they come."""
        return list(inputs)

    def predict(self, texts: list[str]) -> list[tuple[str, float]]:
        """Label and score of each."""
        if self.kind == "onnx":
            return self.head.predict(self.engine.encode(texts))
        ids = self.tokenizer(texts)
        longest = max(len(row) for row in ids)
        tokens = torch.tensor([row + [self.tokenizer.pad_id] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        with torch.inference_mode():
            states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).float()
        pooled = (states * weight).sum(1) / weight.sum(1)
        return self.head.predict(pooled.numpy().astype(np.float16))

    def unbatch(self, output: list[tuple[str, float]]) -> list[tuple[str, float]]:
        """One answer each."""
        return output

    def encode_response(self, output: tuple[str, float]) -> dict[str, Any]:
        """As JSON."""
        return {"label": output[0], "score": output[1]}


def main() -> None:
    """Serve until it is ended."""
    kind, adapter, (port, threads, workers, wait_ms) = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
    api = Api(kind, adapter, threads, max_batch_size=BATCH, batch_timeout=wait_ms / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, track_requests=False)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
