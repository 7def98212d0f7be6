"""What a proof costs, beside the loading of the real weights that it saves when a layout is wrong.

    python benchmarks/cost_of_proof.py [--recipe minimax-m2.5-nvfp4] [--layouts tep2,pp2dp2]

In one run: the proofs, timed; and this machine's disk, read past its cache, as the peer: how long it would take to read
the model's weights from it. Beside them stands what the recipe's source reports for its own machines. A layout that is
wrong costs one loading of every GPU that it uses before anybody can see it, and a second one for the right layout.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from overspan.catalog import models, recipes
from overspan.prove import proving

REPORTED_LOAD_S = 600.0
"""Seed 000: "Startup takes ~10 minutes (model loading on both nodes)", for 126 GB on two DGX Sparks."""
SAMPLE_BYTES = 2**30
CHUNK_BYTES = 2**22


def disk_bytes_per_s() -> float:
    """Reading a file of a gigabyte that was just written, after the kernel was told to forget it."""
    with tempfile.NamedTemporaryFile(dir=Path.home()) as file:
        block = os.urandom(CHUNK_BYTES)
        for _ in range(SAMPLE_BYTES // CHUNK_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.monotonic()
        with Path(file.name).open("rb", buffering=0) as reader:
            while reader.read(CHUNK_BYTES):
                pass
        return SAMPLE_BYTES / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="minimax-m2.5-nvfp4")
    parser.add_argument("--layouts", help="comma-separated, or all; default: the recipe's own")
    options = parser.parse_args()
    recipe = recipes.find(options.recipe)
    model = models.lookup(recipe.model)
    if model is None:
        raise SystemExit(f"the sizes of {recipe.model} are not at hand")
    weights = model.weight_bytes
    rate = disk_bytes_per_s()
    print(f"weights of {recipe.model}: {weights / 1e9:.0f} GB")
    print(f"this machine's disk: {rate / 1e9:.2f} GB/s, so {weights / rate:.0f} s for them")
    print(f"reported for two DGX Sparks: {REPORTED_LOAD_S:.0f} s (Avarok's MiniMax-M2.5 guide)\n")
    started = time.monotonic()
    proofs = list(proving.prove(recipe, proving.layouts_of(options.layouts, recipe), lambda text: None))
    whole = time.monotonic() - started
    for proof in proofs:
        ranks = proving.layouts_of(proof.layout, recipe)[0].world_size
        verdict = "exact" if proof.exact else "NOT exact"
        print(
            f"{proof.layout:>9}: {verdict}, {proof.seconds:5.0f} s of a laptop; a wrong one would have cost "
            f"{ranks * REPORTED_LOAD_S:.0f} GPU-seconds of loading ({REPORTED_LOAD_S / proof.seconds:.1f}x the time)"
        )
    print(f"\nall, with the twin and its reference: {whole:.0f} s; one loading as reported: {REPORTED_LOAD_S:.0f} s")
    print(f"ratio of one loading to one proof: {REPORTED_LOAD_S / (whole / len(proofs)):.1f}x")


if __name__ == "__main__":
    main()
