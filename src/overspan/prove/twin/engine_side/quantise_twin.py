"""Run by an engine's Python: stores a twin's weights in a quantised format. It imports nothing of `overspan`.

    python quantise_twin.py ORDER.json

ORDER.json holds `seed`, `plain` (a folder with a plain checkpoint), `out` and `dequantised` (two folders to make),
`names` (of the tensors to quantise), `format` (nvfp4 or fp8_block), `layout` (modelopt, compressed-tensors or fp8) and
`quantization_config`. Scales of tensors are powers of two, so that the dequantised weights are exact in BF16: what the
reference computes with is what the engine's kernels mean. The last line printed is one JSON document.
"""

import json
import math
import re
import shutil
import sys
import zlib
from pathlib import Path

import torch
from build_twin import distinct_tokens
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E2M1_MAX, E4M3_MAX = 6.0, 448.0
GROUP = 16
INPUT_SCALE = 2.0**-9
"""For activations of about 5: 5 / (6 * 448). Weight-only kernels (Marlin) do not read it."""
FUSED = [(r"\.(w1|w3)\.", ".w13."), (r"\.(q|k|v)_proj\.", ".qkv."), (r"\.(gate|up)_proj\.", ".gate_up.")]
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main(order: dict) -> dict:
    """Write both checkpoints; give their sizes."""
    chosen = set(order["names"])
    quantised, dequantised = {}, {}
    tensors = load(Path(order["plain"]))
    scales = shared_scales(tensors, chosen, order["format"])
    block = order["quantization_config"].get("weight_block_size")
    for name, value in tensors.items():
        if name not in chosen:
            plain = value if "e_score_correction_bias" in name else value.to(torch.bfloat16)
            quantised[name] = dequantised[name] = plain
            continue
        stored, meant = quantise(value.float(), order["format"], scales.get(fused(name)), block)
        dequantised[name] = meant.to(torch.bfloat16)
        if not torch.equal(dequantised[name].float(), meant):
            raise SystemExit(f"{name}: its dequantised values are not exact in BF16")
        quantised |= named(name, stored, order["layout"])
    write(quantised, order["plain"], order["out"], order["quantization_config"])
    write(dequantised, order["plain"], order["dequantised"], None)
    model = AutoModelForCausalLM.from_pretrained(order["dequantised"], dtype=torch.float32).eval()
    return {
        "weight_bytes": sum(value.nbytes for value in quantised.values()),
        "distinct_tokens": distinct_tokens(model, model.config.vocab_size, order["seed"]),
    }


def load(folder: Path) -> dict:
    """Every tensor of a folder."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    return tensors


def write(tensors: dict, plain: str, out: str, quantization_config: dict | None) -> None:
    """A folder that an engine loads: the tensors, and the other files of the plain one."""
    folder = Path(out)
    folder.mkdir(parents=True)
    for file in FILES:
        if Path(plain, file).exists():
            shutil.copy2(Path(plain, file), folder / file)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "bfloat16"
    if quantization_config:
        config["quantization_config"] = quantization_config
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def fused(name: str) -> str:
    """The name of the matrix that the engine makes of this one and its neighbours: they share one scale."""
    for pattern, together in FUSED:
        name = re.sub(pattern, together, name)
    return name


def shared_scales(tensors: dict, chosen: set, form: str) -> dict:
    """The scale of each matrix of the engine, a power of two; not all alike, so that another's scale shows."""
    if form != "nvfp4":
        return {}
    largest = {}
    for name in chosen:
        peak = tensors[name].abs().max().item()
        largest[fused(name)] = max(peak, largest.get(fused(name), 0.0))
    return {
        name: 2.0 ** (math.ceil(math.log2(peak / (E2M1_MAX * E4M3_MAX))) + zlib.crc32(name.encode()) % 2)
        for name, peak in largest.items()
    }


def quantise(weight: torch.Tensor, form: str, scale: float | None, block: list | None) -> tuple[dict, torch.Tensor]:
    """What is stored of a matrix, and the values that it means."""
    return nvfp4(weight, scale) if form == "nvfp4" else fp8_block(weight, block)


def nvfp4(weight: torch.Tensor, scale: float) -> tuple[dict, torch.Tensor]:
    """Two E2M1 values a byte (the first in the low half), an E4M3 scale for 16, one FP32 scale."""
    rows, columns = weight.shape
    groups = weight.reshape(rows, columns // GROUP, GROUP)
    blocks = (groups.abs().amax(-1) / (E2M1_MAX * scale)).clamp(2.0**-6, E4M3_MAX).to(torch.float8_e4m3fn)
    units = (groups / (blocks.float() * scale).unsqueeze(-1)).clamp(-E2M1_MAX, E2M1_MAX)
    edges = (E2M1[1:] + E2M1[:-1]) / 2
    codes = torch.bucketize(units.abs(), edges).to(torch.uint8)
    meant = (E2M1[codes.long()] * units.sign() * blocks.float().unsqueeze(-1) * scale).reshape(rows, columns)
    codes = (codes | ((units < 0).to(torch.uint8) << 3)).reshape(rows, columns)
    return {"packed": codes[:, 0::2] | (codes[:, 1::2] << 4), "blocks": blocks, "scale": scale}, meant


def fp8_block(weight: torch.Tensor, block: list) -> tuple[dict, torch.Tensor]:
    """E4M3 values, an FP32 scale for each block (its rows, its columns); the last one of a side may be smaller."""
    rows, columns = weight.shape
    high, wide = min(block[0], rows), min(block[1], columns)
    down, across = math.ceil(rows / high), math.ceil(columns / wide)
    padded = torch.zeros(down * high, across * wide)
    padded[:rows, :columns] = weight
    peaks = padded.reshape(down, high, across, wide).abs().amax((1, 3)).clamp(2.0**-100)
    scales = torch.exp2(torch.ceil(torch.log2(peaks / E4M3_MAX)))
    spread = scales.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :columns]
    stored = (weight / spread).to(torch.float8_e4m3fn)
    return {"values": stored, "scales": scales}, stored.float() * spread


def named(name: str, stored: dict, layout: str) -> dict:
    """The tensors under the names that vLLM loads (0.26 and 0.32: modelopt.py, compressed_tensors_w4a4_nvfp4.py,
    fp8.py). compressed-tensors keeps the reciprocals of the global scales.
    """
    base = name.removesuffix(".weight")
    if layout == "fp8":
        return {name: stored["values"], f"{base}.weight_scale_inv": stored["scales"]}
    scale = torch.tensor(stored["scale"])
    if layout == "compressed-tensors":
        return {
            f"{base}.weight_packed": stored["packed"],
            f"{base}.weight_scale": stored["blocks"],
            f"{base}.weight_global_scale": (1 / scale).reshape(1),
            f"{base}.input_global_scale": torch.tensor([1 / INPUT_SCALE]),
        }
    return {
        name: stored["packed"],
        f"{base}.weight_scale": stored["blocks"],
        f"{base}.weight_scale_2": scale,
        f"{base}.input_scale": torch.tensor(INPUT_SCALE),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
