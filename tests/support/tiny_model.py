"""The smallest model folder that passes for one."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def safetensors(values: int = 4, **changes: object) -> bytes:
    """A weights file of one fp32 tensor."""
    tensor = {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values], **changes}
    header = json.dumps({"w": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * values)


def files(values: int = 4) -> dict[str, bytes]:
    return {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model.safetensors": safetensors(values),
    }


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in files().items():
        (folder / name).write_bytes(data)
    return folder
