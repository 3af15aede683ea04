"""Learners that are closed after the test, whatever came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from learning_parts import Learning


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Callable[..., Learning]]:
    """Opens a :class:`Learning` on ``tmp_path`` with the settings given."""
    with ExitStack() as opened:

        def start(**settings: Any) -> Learning:
            learning = Learning(tmp_path, **settings)
            opened.callback(learning.close)
            return learning

        yield start
