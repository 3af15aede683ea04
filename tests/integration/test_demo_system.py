"""The system under the demo when it does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_ft.demo.system import System
from stream_ft.errors import StreamFTError


def test_a_model_that_does_not_exist_is_one_clean_sentence(tmp_path: Path) -> None:
    system = System(tmp_path / "state", model=str(tmp_path / "nowhere"))
    try:
        with pytest.raises(StreamFTError, match=f"^There is no model folder {tmp_path / 'nowhere'}") as caught:
            system.wait_ready()
    finally:
        system.stop()
    assert "stream-ft" not in str(caught.value)
