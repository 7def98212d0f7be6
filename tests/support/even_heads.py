"""SmolLM2 with one group of heads more, so that two ranks can share it: 12 and 4 heads in place of 9 and 3.

The heads that are added are zeros, in and out, so every answer is the original's and its known answers hold.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

BYTES = 2  # BF16


def make(source: Path, folder: Path) -> Path:
    """Write the model again with a group of empty heads.

    Args:
        source: a folder of SmolLM2 in one file of BF16 weights.
        folder: a new one.
    """
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)
    config = json.loads((source / "config.json").read_text())
    dim, kv_heads = config["head_dim"], config["num_key_value_heads"]
    group = config["num_attention_heads"] // kv_heads
    config |= {"num_attention_heads": group * (kv_heads + 1), "num_key_value_heads": kv_heads + 1}
    (folder / "config.json").write_text(json.dumps(config))
    added = {"q_proj": group * dim, "k_proj": dim, "v_proj": dim, "o_proj": group * dim}
    _weights(source / "model.safetensors", folder / "model.safetensors", added)
    return folder


def _weights(source: Path, target: Path, added: dict[str, int]) -> None:
    """Copy a safetensors file; rows of zeros are added to q, k and v, columns to o."""
    data = source.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header: dict[str, dict[str, Any]] = json.loads(data[8 : 8 + size])
    tensors, at, bodies = {}, 0, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        body, shape = data[begin:end], list(entry["shape"])
        kind = name.split(".")[-2]
        if kind == "o_proj":
            row = shape[1] * BYTES
            gap = bytes(added[kind] * BYTES)
            body = b"".join(body[start : start + row] + gap for start in range(0, len(body), row))
            shape[1] += added[kind]
        elif kind in added:
            body += bytes(added[kind] * shape[1] * BYTES)
            shape[0] += added[kind]
        tensors[name] = {**entry, "shape": shape, "data_offsets": [at, at + len(body)]}
        at += len(body)
        bodies.append(body)
    head = json.dumps(tensors).encode()
    head += b" " * (-len(head) % 8)
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.writelines(bodies)
