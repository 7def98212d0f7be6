"""Run by an engine's Python: what transformers answers, greedily, in fp32. It imports nothing of `overspan`.

    python reference.py ORDER.json

ORDER.json holds `model`, `cases` (a list of {prompt: token ids, tokens: how many}), `out`. The answer holds for each
case `tokens` and `margins`: by how much each token beat the next best, so that a tie can be told from a fault.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main(order: dict) -> None:
    """Answer each case by itself: no batch, no padding, nothing that an engine could share a fault with."""
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32).eval()
    answers = [answer(model, case["prompt"], case["tokens"]) for case in order["cases"]]
    Path(order["out"]).write_text(json.dumps(answers))


def answer(model: torch.nn.Module, prompt: list, count: int) -> dict:
    """Greedy tokens after one prompt."""
    tokens, margins, cache = [], [], None
    step = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(count):
            result = model(step, past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            best = result.logits[0, -1].float().topk(2)
            tokens.append(best.indices[0].item())
            margins.append((best.values[0] - best.values[1]).item())
            step = best.indices[:1].reshape(1, 1)
    return {"tokens": tokens, "margins": margins}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
