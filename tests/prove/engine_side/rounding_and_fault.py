"""Run by an engine's Python on a plain checkpoint of a MoE twin: how much of what it says rounding and a fault change.

python rounding_and_fault.py FOLDER

It prints the shares of equal tokens: in BF16, and with one layer's experts shifted by one.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokens = torch.randint(0, model.config.vocab_size - 1, (8, 64), generator=torch.Generator().manual_seed(1))


def said() -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits.argmax(-1)


right = said()
experts = model.model.layers[0].mlp.experts
with torch.no_grad():
    for weights in experts.parameters():
        weights.copy_(weights.roll(1, 0))
shifted = said()
with torch.no_grad():
    for weights in experts.parameters():
        weights.copy_(weights.roll(-1, 0))
model.to(torch.bfloat16)
for name, module in model.named_modules():
    if name.endswith(".gate"):  # as the engine has it
        module.float()
        module.register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]))
cases = (("bf16", said()), ("shifted", shifted))
print(json.dumps({name: (other == right).double().mean().item() for name, other in cases}))
