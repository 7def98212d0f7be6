"""A stand-in for enroot: it writes a whole squashfs superblock, slowly, and tells how often it was asked."""

import os
import sys
from pathlib import Path

import pytest

ENROOT = """#!{python}
import os, struct, sys, time
out, uri = sys.argv[sys.argv.index("--output") + 1], sys.argv[-1]
with open({log!r}, "a") as log:
    log.write(uri + "\\n")
data = b"hsqs" + bytes(36) + struct.pack("<Q", 4096) + bytes(4048)
with open(out, "wb") as file:
    file.write(data[:100]); file.flush()
    time.sleep(float(os.environ.get("IMPORT_S", "0.3")))
    if os.environ.get("IMPORT_CUT"):
        sys.exit(0)
    file.write(data[100:])
"""


def add_enroot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put it first on the PATH; `asked` tells of it."""
    program = folder / "bin" / "enroot"
    program.parent.mkdir()
    program.write_text(ENROOT.format(python=sys.executable, log=str(folder / "asked")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def asked(folder: Path) -> list[str]:
    """What was imported, each time."""
    return (folder / "asked").read_text().split() if (folder / "asked").exists() else []
