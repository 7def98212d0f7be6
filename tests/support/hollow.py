"""Weights that are a header and a hole: as long as the real ones on paper, and next to nothing on the disk."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

BITS = {"BF16": 16, "F16": 16, "F32": 32, "I32": 32, "I64": 64, "U8": 8, "I8": 8, "F8_E4M3": 8}
Tensors = dict[str, tuple[str, list[int]]]


def write_weights(folder: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> int:
    """Write model.safetensors with tensors by name, each with its type and shape; return the bytes of all."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = BITS[dtype] // 8 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return end
