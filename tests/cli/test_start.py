"""What the command line leaves unloaded: imports are most of the time of a short command."""

import subprocess
import sys

PROGRAM = """\
import sys
from overspan.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


def loaded(*argv: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_loads_no_documents() -> None:
    assert not loaded("--help") & {"pydantic", "yaml"}


def test_a_plan_for_other_machines_loads_no_launcher_probe_or_plugin() -> None:
    seen = loaded("plan", "minimax-m2.5-nvfp4", "--on", "two-sparks", "--show", "commands")
    assert "pydantic" in seen
    for name in (
        "email",
        "importlib.resources",
        "psutil",
        "httpx",
        "overspan.transport",
        "overspan.provision.engines",
        "overspan.provision.hub",
    ):
        assert name not in seen, name
