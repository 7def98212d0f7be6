"""What the plugin did: to a real engine, and to a vLLM of a few lines."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Outcome:
    cases: dict[str, dict[str, Any]]
    log: str

    def value(self, case: str) -> Any:
        assert "value" in self.cases[case], self.cases[case]
        return self.cases[case]["value"]


@dataclass
class FakeVllm:
    """A vLLM of a few lines, of any version."""

    folder: Path
    site: Path

    def run(self, version: str, code: str, old: str | None = None, **switches: str) -> list[str]:
        """The lines that the code prints after both entry points were called; the plugin's log comes first.

        `old`: the version that it was at the last call.
        """
        if old is not None:
            shutil.rmtree(self.folder / f"vllm-{old}.dist-info")
        info = self.folder / f"vllm-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        start = (
            "import logging, sys\n"
            "logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s')\n"
            "from importlib.metadata import entry_points\n"
            "for group in ('vllm.platform_plugins', 'vllm.general_plugins'):\n"
            "    for entry in entry_points(group=group):\n"
            "        assert entry.load()() is None\n"
        )
        environment = {**os.environ, **switches, "PYTHONPATH": f"{self.folder}{os.pathsep}{self.site}"}
        done = subprocess.run(
            [sys.executable, "-c", start + code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
