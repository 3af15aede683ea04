"""Makes the modules beside this file importable from every test folder, and starts one Kafka broker for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from broker import Broker


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``kafka`` where there is none. From here, so that all of them are told in one line."""
    if item.get_closest_marker("kafka") is None or os.environ.get("KAFKA_BOOTSTRAP"):
        return
    from broker import missing

    if why := missing():
        pytest.skip(why)


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker without security that lives as long as the tests: for those that do not disturb it."""
    from broker import Broker, missing

    if why := missing():
        pytest.skip(why)
    with Broker(tmp_path_factory.mktemp("kafka") / "broker") as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_address(request: pytest.FixtureRequest) -> str:
    """``host:port`` of a broker to work with: the one in ``KAFKA_BOOTSTRAP``, or :func:`kafka_broker`."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    return given or str(request.getfixturevalue("kafka_broker").address)
