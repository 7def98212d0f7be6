"""Six points of a real model on two cores, TP1, TP2 and PP2: the sweep that CI runs and that the README shows."""

from __future__ import annotations

from pathlib import Path

from overspan.catalog import recipes
from overspan.provision import models
from support import even_heads

RECIPE = """name: smollm2
description: SmolLM2-135M-Instruct with a group of empty heads, which changes no answer
model: {model}
served_model_name: smollm2-135m
engine_args: {{max_model_len: 512, max_num_seqs: 8}}
known_answers:
  - {{prompt: What is the capital of France?, expect: Paris}}
"""
SWEEP = """name: ladder
description: six points of a small model on this machine's CPU
base: smollm2.yaml
scenarios: {short: {isl: 32, osl: 12}}
load: {requests_per_user: 4, warmup_per_user: 0}
points:
  - {topology: TP1, concurrency: [1, 4]}
  - {topology: TP2, concurrency: [1, 4]}
  - {topology: PP2, concurrency: [1]}
  # No request is answered so soon: this point must fail, and must not end the sweep.
  - {topology: PP2, name: hurried, concurrency: [4], load: {timeout_s: 0.002}}
"""


def write(folder: Path) -> Path:
    """The sweep's file in a folder, its recipe and its model beside it."""
    model = even_heads.make(models.prepare(recipes.find("smollm2-135m")).path, folder / "smollm2-even")
    (folder / "smollm2.yaml").write_text(RECIPE.format(model=model))
    file = folder / "ladder.yaml"
    file.write_text(SWEEP)
    return file
