"""Make the quantised twin of a catalogue model with this environment's own transformers.

python make_twin.py minimax-m2.5-nvfp4 OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from overspan.catalog import models
from overspan.prove.twin.shrink import shrink
from overspan.prove.twin.write import write

if __name__ == "__main__":
    name, out = sys.argv[1:]
    print(write(name, shrink(models.config_of(name), "real"), Path(out), Path(sys.executable)).model_dump_json())
