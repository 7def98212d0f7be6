"""Run by an engine's Python: what transformers answers, greedily, in fp32. It imports nothing of `overspan`.

    python reference.py ORDER.json

ORDER.json holds `model`, `cases` and `out`. A case is {prompt: token ids, tokens: how many}, or {text, tokens}: then
the text is tokenised, and the answer tells its `prompt`. An answer holds `tokens`, `logprobs` and `margins`: by how
much each token beat the next best, so that a tie can be told from a fault.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(order: dict) -> None:
    """Answer each case by itself: no batch, no padding, nothing that an engine could share a fault with."""
    # A twin's matrices are so small that threads cost more than they give: a token of DeepSeek-V3's took 0.03 s with
    # one and 0.2 s with two, while others worked on this machine (2026-11-23).
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32).eval()
    answers = []
    for case in order["cases"]:
        if "text" in case:
            prompt = AutoTokenizer.from_pretrained(order["model"])(case["text"])["input_ids"]
            answers.append({"prompt": prompt, **answer(model, prompt, case["tokens"])})
        else:
            answers.append(answer(model, case["prompt"], case["tokens"]))
    Path(order["out"]).write_text(json.dumps(answers))
    print(json.dumps({"versions": f"transformers {transformers.__version__}, torch {torch.__version__}"}))


def answer(model: torch.nn.Module, prompt: list, count: int) -> dict:
    """Greedy tokens after one prompt."""
    tokens, logprobs, margins, cache = [], [], [], None
    step = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(count):
            result = model(step, past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            best = result.logits[0, -1].float().log_softmax(-1).topk(2)
            tokens.append(best.indices[0].item())
            logprobs.append(best.values[0].item())
            margins.append((best.values[0] - best.values[1]).item())
            step = best.indices[:1].reshape(1, 1)
    return {"tokens": tokens, "logprobs": logprobs, "margins": margins}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
