"""What the dequantised twin says, by transformers in FP32 on one GPU.

    python reference.py DEQUANTISED OUT.json

OUT holds `prompts`, their greedy `continuations`, and for every position of prompt and continuation the best next token
(`best`) and by how much it won (`margins`).
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

PROMPTS, SHORTEST, LONGEST, TOKENS = 24, 16, 96, 64


def main(folder: str, out: str) -> None:
    """Ask and write."""
    torch.backends.cuda.matmul.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    draw = random.Random(20261122)
    words = model.config.vocab_size - 1
    prompts = [[draw.randrange(words) for _ in range(draw.randrange(SHORTEST, LONGEST))] for _ in range(PROMPTS)]
    found: dict[str, list[object]] = {"prompts": [], "continuations": [], "best": [], "margins": []}
    for prompt in prompts:
        continuation = greedy(model, prompt)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + continuation], device=device)).logits[0]
        top = logits.topk(2)
        found["prompts"].append(prompt)
        found["continuations"].append(continuation)
        found["best"].append(top.indices[:, 0].tolist())
        found["margins"].append((top.values[:, 0] - top.values[:, 1]).tolist())
    Path(out).write_text(json.dumps(found))


def greedy(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    """The next tokens, the end-of-text token among them where it is the best."""
    tokens: list[int] = []
    cache = None
    step = torch.tensor([prompt], device=next(model.parameters()).device)
    with torch.no_grad():
        for _ in range(TOKENS):
            result = model(step, past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            step = result.logits[:, -1].argmax(-1, keepdim=True)
            tokens.append(int(step.item()))
    return tokens


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
