"""Run by an engine's Python: writes a twin's checkpoint and its tokenizer. It imports nothing of `overspan`.

    python build_twin.py ORDER.json

ORDER.json holds `config` (of the twin), `extra`, `seed`, `calm`, `mtp_modules`, `dtype`, `out`. The last line printed
is one JSON document of what was made; `matrices` are the names in the checkpoint of what could be quantised.
"""

import json
import math
import sys
from pathlib import Path

import mtp_twin
import torch
from calm_twin import calm
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

BYTES = 256
PROMPTS, TOKENS = 4, 48


def main(order: dict) -> dict:
    """Write the twin; give its parameters, bytes and the distinct tokens of its worst output."""
    config = AutoConfig.for_model(**order["config"])
    config.torch_dtype = torch.float32
    torch.manual_seed(order["seed"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    turned(model, order["extra"].get("rotary_dim"))
    generator = torch.Generator().manual_seed(order["seed"])
    # A head that is the embedding itself would find the last token again: it is made small beside what layers add.
    fill(model, generator, words=0.05 if config.tie_word_embeddings else 1.0)
    if order.get("calm"):
        calm(model, order["seed"])
    elif order.get("mtp_modules"):
        mtp_twin.foreseeable(model, order["seed"])
    distinct = distinct_tokens(model, config.vocab_size, order["seed"])
    for layer in mtp_twin.append(model, order.get("mtp_modules", 0)):
        fill(layer, generator)
        mtp_twin.foresee(model, layer)
    model.to(getattr(torch, order["dtype"])).save_pretrained(order["out"])
    saved = Path(order["out"], "config.json")
    # What transformers leaves out, and the engine reads.
    saved.write_text(json.dumps({**json.loads(saved.read_text()), **order["extra"]}, indent=2))
    tokenizer(config.vocab_size).save_pretrained(order["out"])
    files = list(Path(order["out"]).glob("*.safetensors"))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weight_bytes": sum(path.stat().st_size for path in files),
        "distinct_tokens": distinct,
        "matrices": [name for path in files for name in matrices(path)],
    }


def turned(model: torch.nn.Module, rotary_dim: int | None) -> None:
    """End where this transformers would turn other channels of a head than the engine does: no reference then."""
    widths = {2 * value.numel() for name, value in model.named_buffers() if name.endswith("rotary_emb.inv_freq")}
    if rotary_dim and widths != {rotary_dim}:
        raise SystemExit(f"this transformers turns {widths} channels of a head, not {rotary_dim}: take 5.19 or later")


def matrices(path: Path) -> list:
    """The tensors of a file that have two dimensions."""
    with safe_open(path, "pt") as file:
        return [name for name in file.keys() if len(file.get_slice(name).get_shape()) == 2]  # noqa: SIM118


def fill(model: torch.nn.Module, generator: torch.Generator, words: float = 1.0) -> None:
    """Random weights that keep a signal's size; norms and biases are not all alike, so that a wrong slice shows.

    Args:
        model: or a part of one.
        generator: of the noise.
        words: how large embeddings are.
    """
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point() or "inv_freq" in name:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if "bias" in name:
                value.copy_(noise * 0.1)
            elif value.dim() == 1:
                value.copy_(1 + noise * 0.1)
            elif "embed" in name:
                value.copy_(noise * words)
            else:
                # Sharper than usual: attention that looks at one token rather than at all of them does not collapse.
                value.copy_(noise * 1.5 / math.sqrt(value.shape[-1]))


def distinct_tokens(model: torch.nn.Module, vocab: int, seed: int) -> int:
    """Distinct tokens in the dullest of a few greedy outputs."""
    prompts = torch.randint(0, vocab, (PROMPTS, 16), generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        output = model.generate(
            prompts, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return min(len(set(row[16:].tolist())) for row in output)


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """One token a byte; what is left of the vocabulary has names of its own, so that every id can be shown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"<{number}>" for number in range(BYTES, vocab - 1)), "<end>"]
    inner = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
    made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return made


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
