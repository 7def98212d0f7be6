import os
import sys
from pathlib import Path

import pytest

from support.wheels import make_wheel

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of the test's own, and no index but one folder of tiny wheels."""
    wheels = tmp_path / "wheels"
    make_wheel(wheels, "tiny", "1.0", script=True)
    make_wheel(wheels, "helper", "2.0")
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    return tmp_path / "cache"
