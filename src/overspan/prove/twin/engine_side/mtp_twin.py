"""MTP modules of a twin, in DeepSeek-V3's form: decoder layers past the last, each with projections and norms.

Random modules would never guess right, and speculative decoding would only be seen refusing. So half of the words are
made foreseeable: their embeddings are large and the head leans to one successor of each. A module foresees these and
no others, so that about half of its drafts are taken.
"""

import math

import torch

FORESEEN = 2
"""One in so many words has a successor that is nearly always said."""
LOUD = 4.0
"""Their embeddings beside the others': measured, nine in ten successors are said."""
LEAN = 3.0
QUIET = 0.1
"""What a module's own layer adds, beside the word: not nothing, and not so much that it never foresees."""


def foreseeable(model: torch.nn.Module, seed: int) -> None:
    """Give half of the words a successor that the model nearly always says."""
    generator = torch.Generator().manual_seed(seed)
    words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    known, after = (torch.randperm(len(words), generator=generator)[: len(words) // FORESEEN] for _ in range(2))
    with torch.no_grad():
        head[after] += LEAN * words[known] / math.sqrt(words.shape[1])
        words[known] *= LOUD


def append(model: torch.nn.Module, count: int) -> list:
    """Add empty modules behind the last layer, by the names that checkpoints have; the model's own pass stops before.

    Source of the names: vLLM 0.26 and 0.32, models/deepseek_mtp.py; huggingface.co/deepseek-ai/DeepSeek-V3.
    """
    config, layers = model.config, model.model.layers
    added = []
    for _ in range(count):
        layer = type(layers[-1])(config, len(layers))
        norm = type(layer.input_layernorm)
        for name in ("enorm", "hnorm"):
            setattr(layer, name, norm(config.hidden_size, eps=config.rms_norm_eps))
        layer.eh_proj = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        layer.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        layer.shared_head = torch.nn.Module()
        layer.shared_head.norm = norm(config.hidden_size, eps=config.rms_norm_eps)
        layer.shared_head.head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        layers.append(layer.eval())
        added.append(layer)
    return added


def foresee(model: torch.nn.Module, layer: torch.nn.Module) -> None:
    """Let a module with random weights say the successor that the head leans to. It shares words and head, by value."""
    hidden = model.config.hidden_size
    with torch.no_grad():
        layer.eh_proj.weight.mul_(QUIET)
        layer.eh_proj.weight[:, :hidden] += torch.eye(hidden)
        for name, value in layer.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                value.mul_(QUIET)
        layer.embed_tokens.weight.copy_(model.get_input_embeddings().weight)
        layer.shared_head.head.weight.copy_(model.get_output_embeddings().weight)
