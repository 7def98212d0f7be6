"""Weights on which nothing hangs by less than BF16 rounds off, and everything on each part being the right one.

With plain noise a router's eighth expert beats the ninth of 256 by so little that BF16 often takes the other. Here each
word belongs to a route, kept in channels of its own: a set of experts that wins by far, another in each layer. The
experts of a route hand the word on to the next route, so that a layer whose experts are wrong, scaled or lost sends the
word to other experts in the next layer and to other words at the end. The head takes the words of the last route; among
them what attention and experts left in the other channels decides.
"""

import math

import torch

WON_BY = 4.0
"""The size of a route's channel beside embeddings of size 1."""
STEADY = 16.0
"""A channel that is the same for all words and larger than all others: it steadies the norm of what passes."""
EVERY = 16
"""One in so many of an expert's inner channels hands a word on: one a block of NVFP4, and some on every rank."""
RELAY = 0.2


def calm(model: torch.nn.Module, seed: int, *, layers: float = 0.6, lean: float = 1.5, group: float = 4.0) -> None:
    """Change the random weights of a model in place.

    Args:
        model: with noise of usual size in all its weights, in FP32.
        seed: of what is drawn here.
        layers: how large the noise is that attention and experts write, beside the embeddings.
        lean: how much the head leans to one successor of each word.
        group: how much the head prefers the words of the last route.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = [module for module in model.modules() if hasattr(module, "experts") and hasattr(module, "gate")]
    routes = routes_of(model.config) if blocks else 0
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if "o_proj" in name or "down_proj" in name:
                value.mul_(layers)
                value[..., : routes + 1, :] = 0
            elif "e_score_correction_bias" in name:
                value.mul_(0.3)
        words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        order = torch.randperm(words.shape[0], generator=generator)
        place = order.argsort()
        after = order[(place + 1) % len(order)]
        head[after] += lean * words / math.sqrt(words.shape[1])
        if not routes:
            return
        words[:, :routes] = WON_BY * torch.nn.functional.one_hot(place % routes, routes)
        words[:, routes] = STEADY
        last = relay(model, blocks, routes, generator)
        before = torch.empty(routes, dtype=torch.long)
        before[(torch.arange(routes) + 1) % routes] = last
        # What is taken from the others is not added to the right ones: BF16 rounds large logits more coarsely.
        head[:, :routes] = group * (torch.nn.functional.one_hot(before[place % routes], routes) - 1.0)
        head[:, routes] = 0


def routes_of(config: object) -> int:
    """As many as leave each its own experts, in half of the hidden channels at most."""
    named = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next(value for name in named if (value := getattr(config, name, None)))
    return min(experts // (getattr(config, "num_experts_per_tok", None) or 1), config.hidden_size // 2)


def relay(model: torch.nn.Module, blocks: list, routes: int, generator: torch.Generator) -> torch.Tensor:
    """Let each block's experts hand every route on to another one; gives where each route ends.

    How much an expert must write for that depends on norms and on the router's weights: one pass over some words tells.
    """
    ends = torch.arange(routes)
    hooks = []
    for block in blocks:
        ring = torch.randperm(routes, generator=generator)
        to = torch.empty_like(ring).scatter_(0, ring, ring.roll(-1))
        hand_on(block, routes, to, generator)
        hooks.append(block.register_forward_hook(lambda block, _, output: measured(block, routes, output)))
        ends = to[ends]
    words = torch.randint(0, model.config.vocab_size, (8, 64), generator=generator)
    model(words)
    for hook in hooks:
        hook.remove()
    return ends


def hand_on(block: torch.nn.Module, routes: int, to: torch.Tensor, generator: torch.Generator) -> None:
    """Give each route its experts, and these experts the inner channels that move their route's mark to `to`."""
    gate, first, second = block.gate.weight, block.experts.gate_up_proj, block.experts.down_proj
    experts, inner = second.shape[0], second.shape[-1]
    apart = parts(block)
    each_part = [torch.randperm(experts // apart, generator=generator) % (routes // apart) for _ in range(apart)]
    own = torch.cat([routes // apart * at + part for at, part in enumerate(each_part)])
    gate.mul_(0.2)
    gate[:, :routes] = torch.nn.functional.one_hot(own, routes) * 2 - 1.0
    gate[:, routes] = 0
    each = torch.arange(experts)
    for at in range(0, inner, EVERY):
        for row in (at, inner + at):
            first[:, row, :] = 0
            first[:, row, routes] = RELAY
        second[:, :, at] = 0
        second[each, own, at] = -1
        second[each, to[own], at] = 1


def measured(block: torch.nn.Module, routes: int, output: object) -> object:
    """Scale what the experts write of routes so that the mark arrives whole."""
    plain = output[0] if isinstance(output, tuple) else output
    moved = plain[..., :routes].amax(-1).median()
    block.experts.down_proj[:, :routes] *= WON_BY / moved
    plain[..., :routes] *= WON_BY / moved
    return output


def parts(block: torch.nn.Module) -> int:
    """Groups of experts of which a word sees one: its route's experts must lie together (DeepSeek-V3)."""
    of = getattr(block, "n_group", None) or getattr(block.gate, "n_group", None) or 1
    seen = getattr(block, "topk_group", None) or getattr(block.gate, "topk_group", None) or of
    return max(1, of // seen)
