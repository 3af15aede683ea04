"""What a process takes that serves by one engine: ``engine_alone.py CACHE ADAPTER OPTIONS``, options as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil

from stream_ft.memory import give_back
from stream_ft.model.base import MINILM, base_files, resolve
from stream_ft.model.engines.variants import open_variant


def main() -> None:
    """Print the figures as JSON."""
    cache, adapter, options = sys.argv[1:]
    base = resolve(MINILM)
    files = base_files(base) | {
        path.name: path.read_bytes() for path in Path(adapter).iterdir() if path.suffix != ".md"
    }
    begun = time.perf_counter()
    engine = open_variant(base, cache=Path(cache), threads=1, device="cpu", **json.loads(options))
    start_s = time.perf_counter() - begun
    begun = time.perf_counter()
    engine.prepare("lora", files)
    prepare_s = time.perf_counter() - begun
    engine.activate("lora")
    engine.encode(["one text"])
    give_back()
    resident_mb = psutil.Process().memory_info().rss / 1e6
    print(json.dumps({"start_s": start_s, "prepare_s": prepare_s, "resident_mb": resident_mb}))


if __name__ == "__main__":
    main()
