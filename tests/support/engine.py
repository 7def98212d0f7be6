"""The real engine that tests marked `real` run."""

import os
from pathlib import Path

import pytest

from overspan.provision import engines
from overspan.schema.errors import EngineMissing


def engine_python() -> Path:
    """The interpreter of the CPU engine's environment, or a skip that says how to get one.

    OVERSPAN_TEST_ENGINE names another interpreter with the engine.
    """
    given = os.environ.get("OVERSPAN_TEST_ENGINE")
    if given:
        return Path(given)
    try:
        return engines.find("cpu").python
    except EngineMissing as error:
        pytest.skip(str(error))
