"""The headers of *.safetensors files: names, types, shapes and sizes of tensors. The weights are never read.

A file may be cut short or made to harm: nothing in it is believed before it is checked against the file's own size.
Source of the layout: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from overspan.schema.errors import ModelUnavailable
from overspan.schema.model import Module, ModuleWeights
from overspan.schema.places import cache_dir
from overspan.store.files import write_cached

MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library itself
MAX_INDEX: Final = 200_000_000
MOST_FILES: Final = 10_000
INDEX: Final = "model.safetensors.index.json"
CONFIGS: Final = ("config.json", "hf_quant_config.json")
_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_PARTS: Final = frozenset({"qweight", "qzeros", "scales", "g_idx", "weight"})
_PLAIN: Final = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "I8": "int8", "U8": "int8"}
_MODULES: Final[list[tuple[Module, re.Pattern[str]]]] = [
    ("vision", re.compile(r"vision|visual|image|audio|speech|multi_modal_projector|patch_merge|vit\.")),
    ("router", re.compile(r"shared_expert_gate|router|\.gate(\.|$)|e_score_correction|correction_bias")),
    ("shared_experts", re.compile(r"shared_expert")),
    ("experts", re.compile(r"\.experts?(\.|$)|experts_")),
    ("embedding", re.compile(r"embed_tokens|wte|wpe|embed_in|word_embeddings")),
    ("lm_head", re.compile(r"lm_head|embed_out")),
    ("norm", re.compile(r"norm|ln_[f12]|layer_norm")),
    ("attention", re.compile(r"attn|attention|mamba|mixer|indexer")),
    ("mlp", re.compile(r"mlp|feed_forward|ffn|fc[12]")),
]
_NUMBERS: Final = re.compile(r"(?<=[._/])(\d+)(?=[._/])")
_SCALE: Final = re.compile(r"(scale|scales|scale_inv|qzeros|g_idx|zero_point|weight_shape|input_scale|k_scale|v_scale)")


class Tensor(NamedTuple):
    """One tensor of a checkpoint, or equal ones of one layer's experts, told once; `bytes` are of each."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    copies: int = 1

    @property
    def values(self) -> int:
        """Stored values; packed formats hold several parameters in one."""
        return math.prod(self.shape)


def read_folder(folder: Path) -> list[Tensor]:
    """Every tensor of a model's folder.

    Raises:
        ModelUnavailable: a file is missing, cut short or damaged; names it.
    """
    files = _shards(folder)
    tensors = [tensor for file in files for tensor in read_file(file)]
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelUnavailable(f"{folder}: the tensor '{twice}' stands in two files")
    return tensors


def keep(model: str, tensors: list[Tensor]) -> None:
    """Keep what the headers of a hub's model say, so that it is asked once."""
    file = _kept(model)
    write_cached(file, json.dumps(tensors))


def kept(model: str) -> list[Tensor]:
    """What was kept of a hub's model; nothing where nothing was, or it is damaged."""
    try:
        rows = json.loads(_kept(model).read_text(encoding="utf-8"))
        return [
            Tensor(str(name), str(dtype), tuple(map(int, shape)), int(size), *map(int, copies))
            for name, dtype, shape, size, *copies in rows
        ]
    except (OSError, ValueError, TypeError):
        return []


def _kept(model: str) -> Path:
    return cache_dir() / "headers" / f"{model.replace('/', '--')}.json"


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    present = [file.name for file in folder.glob("*.safetensors")]
    if index.is_file() and index.stat().st_size > MAX_INDEX:
        raise ModelUnavailable(f"{index}: larger than {MAX_INDEX} bytes: no index of weights")
    wanted = files_of_index(index.read_bytes(), str(index)) if index.is_file() else None
    if missing := missing_files(present, wanted):
        told = ", though the index names it" if wanted else ""
        raise ModelUnavailable(f"{folder}: {missing[0]} is missing{told}", next="download it again")
    return [folder / name for name in sorted(wanted or present)]


def files_of_index(text: str | bytes, where: str) -> list[str]:
    """The files that an index of weights (`model.safetensors.index.json`) names.

    Raises:
        ModelUnavailable: it is damaged, or names a file outside its folder.
    """
    try:
        names = sorted(set(json.loads(text)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelUnavailable(f"{where}: not an index of weights ({type(error).__name__})") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelUnavailable(f"{where}: names the file {name!r}, outside its folder")
    return names


def missing_files(present: Collection[str], wanted: list[str] | None = None) -> list[str]:
    """Files of weights that a folder lacks: of those that its index names, else of those that are numbered.

    >>> missing_files(["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"])
    ['model-00002-of-00003.safetensors']
    """
    if wanted is None:
        numbered = filter(None, (re.fullmatch(r"(.+-)\d+(-of-(\d+)\.safetensors)", name) for name in present))
        series = {(found[1], found[2], len(found[3]), min(int(found[3]), MOST_FILES)) for found in numbered}
        wanted = [f"{stem}{n:0{width}}{end}" for stem, end, width, of in sorted(series) for n in range(1, of + 1)]
    return sorted(set(wanted) - set(present))


def read_file(file: Path) -> list[Tensor]:
    """The tensors that one file's header names.

    Raises:
        ModelUnavailable: cut short, or the header is not true to the file.
    """
    try:
        return _read(file)
    except OSError as error:  # a link of the hub's cache whose file was deleted
        raise ModelUnavailable(f"{file}: {error.strerror}", next="download it again") from None


def _read(file: Path) -> list[Tensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise ModelUnavailable(f"{file}: cut short: {size} bytes hold no header", next="download it again")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER, size - 8):
            raise ModelUnavailable(
                f"{file}: its header claims {length} bytes; the file has {size}: cut short or damaged"
            )
        text = stream.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelUnavailable(f"{file}: its header is not JSON: damaged", next="download it again") from None
    if not isinstance(header, dict):
        raise ModelUnavailable(f"{file}: its header names no tensors: damaged")
    header.pop("__metadata__", None)
    available = size - 8 - length
    tensors = [_tensor(file, str(name), item, available) for name, item in header.items()]
    _side_by_side(file, header, available)
    return tensors


def _side_by_side(file: Path, header: dict[str, Any], available: int) -> None:
    """Refuse tensors that overlap or leave bytes between them, and bytes after the last, as safetensors does
    (0.8, tensor.rs: Metadata::validate)."""
    at = 0
    for begin, end, name in sorted((*item["data_offsets"], name) for name, item in header.items()):
        if begin != at:
            raise ModelUnavailable(f"{file}: '{name[:200]}' begins at byte {begin}, not at {at}: damaged")
        at = end
    if at != available:
        raise ModelUnavailable(f"{file}: {available - at} bytes follow the last tensor: damaged")


def _tensor(file: Path, name: str, item: Any, available: int) -> Tensor:
    held = item if isinstance(item, dict) else {}
    shape, offsets = _counts(held.get("shape")), _counts(held.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2:
        raise ModelUnavailable(f"{file}: '{name[:200]}' has no sound shape and place: damaged")
    tensor = Tensor(name, str(held.get("dtype")), shape, offsets[1] - offsets[0])
    if tensor.dtype not in _BITS:
        raise ModelUnavailable(f"{file}: '{name[:200]}' is of type {tensor.dtype[:40]!r}, unknown to safetensors")
    if offsets[1] > available:
        raise ModelUnavailable(f"{file}: cut short: '{name[:200]}' ends {offsets[1] - available} bytes after the file")
    if tensor.bytes * 8 != tensor.values * _BITS[tensor.dtype]:
        raise ModelUnavailable(f"{file}: '{name[:200]}' holds {tensor.bytes} bytes, its shape asks for others: damaged")
    return tensor


def _counts(value: Any) -> tuple[int, ...] | None:
    """A list of whole numbers, none below 0."""
    if type(value) is not list or not {*map(type, value)} <= {int} or min(value, default=0) < 0:
        return None
    return tuple(value)


def condensed(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors whose names differ in their second number alone (expert 0, 1, 2 ...), told once with how many there are.

    A checkpoint of 92,000 tensors has 2,000 that differ: all that follows is counted on these.
    """
    equal: dict[tuple[str, str, str, str, str, tuple[int, ...]], list[int]] = {}
    for name, dtype, shape, size, copies in tensors:
        # Text before the first number, the number, text up to the second, the second, the rest.
        head, first, middle, second, rest = (*_NUMBERS.split(name, 2), "", "", "", "")[:5]
        key = (head, first, f"{middle}0" if second else middle, rest, dtype, shape)
        held = equal.setdefault(key, [size, 0])
        held[1] += copies
    return [
        Tensor(f"{head}{first}{middle}{rest}", dtype, shape, size, copies)
        for (head, first, middle, rest, dtype, shape), (size, copies) in equal.items()
    ]


def by_module(
    tensors: list[Tensor], module: Callable[[str, list[Tensor]], Module], integer_bits: int = 4
) -> list[ModuleWeights]:
    """Parameters and exact bytes by module and format.

    Args:
        tensors: of the whole checkpoint.
        module: the kind of a module, by its path and its tensors.
        integer_bits: of weights packed in 32-bit integers, which their header does not tell.
    """
    owners: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        owners[_owner(tensor.name)].append(tensor)
    sums: dict[tuple[Module, str], list[int]] = defaultdict(lambda: [0, 0])
    for owner, held in owners.items():
        weights, parameters = _format(held, integer_bits)
        entry = sums[module(owner, held), weights]
        entry[0] += parameters
        entry[1] += sum(tensor.bytes * tensor.copies for tensor in held)
    return [
        ModuleWeights(module=kind, format=name, parameters=counts[0], bytes=counts[1])
        for (kind, name), counts in sums.items()
    ]


def _owner(name: str) -> str:
    """The module that a tensor belongs to: `x.weight`, `x.weight_scale` and `x_blocks`, `x_scales` belong to `x`."""
    head, _, last = name.rpartition(".")
    stem = re.sub(r"_(blocks|scales|bias|scale_inv|scale|packed|weight_scale)$", "", last)
    if last.startswith(("weight", "bias", "input_", "output_", "k_scale", "v_scale")) or stem in _PARTS:
        return head
    return f"{head}.{stem}" if head else stem


def _format(held: list[Tensor], integer_bits: int) -> tuple[str, int]:
    """The format of one module's weight, and its parameters; biases count as parameters, scales do not."""
    scales = [tensor for tensor in held if _SCALE.search(tensor.name.rsplit(".", 1)[-1])]
    weights = [tensor for tensor in held if tensor not in scales]
    if not weights:
        return "fp32", 0
    main = max(weights, key=lambda tensor: tensor.bytes * tensor.copies)
    rest = sum(tensor.values * tensor.copies for tensor in weights if tensor is not main)
    blocks = max(scales, key=lambda tensor: tensor.values, default=None)
    name, each = _main_format(main, blocks, integer_bits)
    return name, round(main.values * main.copies * each) + rest


def _main_format(main: Tensor, blocks: Tensor | None, integer_bits: int) -> tuple[str, float]:
    """The format of a weight, by its type and that of its scales, and how many parameters one stored value holds."""
    if main.dtype == "I32":
        each = 32 / integer_bits
        return f"int{integer_bits}_g{_group(main, blocks, each)}", each
    if blocks is not None and main.dtype in ("U8", "F4"):
        return ("nvfp4" if blocks.dtype == "F8_E4M3" else "mxfp4"), 2 if main.dtype == "U8" else 1
    if main.dtype.startswith("F8"):
        if blocks is not None and blocks.dtype in ("U8", "F8_E8M0"):
            return "mxfp8", 1
        square = (
            blocks is not None and len(blocks.shape) == 2 and 1 < blocks.values < main.values and blocks.shape[1] > 1
        )
        return ("fp8_block" if square else "fp8"), 1
    return _PLAIN.get(main.dtype, "fp32"), 1


def _group(main: Tensor, blocks: Tensor | None, per_integer: float) -> int:
    if blocks is None or not blocks.values:
        return 4096
    return max(1, round(main.values * per_integer / blocks.values))


def module_of(path: str, layers: int) -> Module:
    """The kind of module that a path of a checkpoint means."""
    layer = re.search(r"(?:layers|h|blocks)\.(\d{1,6})(?:\.|$)", path)
    if "mtp" in path or (layer and int(layer.group(1)) >= layers and "vis" not in path):
        return "mtp"
    for module, expression in _MODULES:
        if expression.search(path):
            return module
    return "other"
