"""Measure the machine at hand and write what was measured as a hardware YAML that the planner takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from overspan.catalog import hardware
from overspan.inventory.host import kind_of
from overspan.schema.errors import OverspanError, UnknownName
from overspan.schema.hardware import Bandwidth, DeviceMemory, HardwareSpec, Interconnect, Launch, Rate
from overspan.schema.inventory import Host
from overspan.transport.local import Local

SCRIPT: Final = Path(__file__).with_name("engine_side") / "five_numbers.py"
# A file holds what the data sheet of a kind would say; these are the shares of it that a plain test reaches on a GPU.
COPY_REACHES: Final = 0.9  # 4.3 of 4.8 TB/s on an H200 (docs/sources.md#counted-bytes)
PRODUCT_REACHES: Final = 0.7  # BF16 products of 8192: 650-750 of 989 TFLOP/s on an H100 (cuBLAS, public reports)
# By compute capability (NVIDIA, CUDA GPUs).
_FAMILIES: Final[dict[str, str]] = {
    "8.0": "ampere", "8.6": "ampere", "8.9": "ada", "9.0": "hopper", "10.0": "blackwell", "10.3": "blackwell",
    "12.0": "blackwell-consumer", "12.1": "blackwell-consumer",
}  # fmt: skip
_LIMIT_S: Final = 300.0


def numbers(python: str, ranks: int | None = None) -> dict[str, Any]:
    """The five numbers, measured by a Python on this machine.

    Args:
        python: an interpreter; torch is used where it has it.
        ranks: processes of the all-reduce; all GPUs, or 2 on a CPU, where not given.

    Raises:
        OverspanError: the script died; quotes its last line.
    """
    argv = [python, str(SCRIPT), *([str(ranks)] if ranks else [])]
    done = Local().run(argv, timeout_s=_LIMIT_S, env={"TOKENIZERS_PARALLELISM": "false"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.code or not lines:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise OverspanError(
            "the process that measures ended with an error", quote=said[-1] if said else None, next=" ".join(argv)
        )
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def spec_of(found: dict[str, Any], host: Host, when: str) -> HardwareSpec:
    """The hardware of measured numbers; what was not measured is the catalogue's, and its source says so.

    Args:
        found: what `numbers` gave.
        host: this machine.
        when: date of the measurement, for the sources.
    """
    cuda = found["device"] == "cuda"
    name = kind_of(found["gpu"]) if cuda else "cpu"
    known = _known(name if cuda else "cpu", found)
    said = f"measured {when} with {found['with']}"
    memory = DeviceMemory(
        bytes=found.get("memory_bytes", host.memory_bytes),
        source=said if cuda else "this machine's own",
        unified=known.memory.unified,
        reserve_bytes=known.memory.reserve_bytes,
    )
    copy = found["copy_bytes_per_s"] / (COPY_REACHES if cuda else 1.0)
    reached = f"; a copy reaches {COPY_REACHES:.0%} of it" if cuda else " (copy, read and written)"
    return known.with_(
        name=f"my-{name}",
        names=[],
        family=_FAMILIES.get(found.get("capability", ""), known.family),
        memory=memory,
        bandwidth=Bandwidth(bytes_per_s=copy, source=said + reached),
        rates=_rates(found, known, said, cuda=cuda),
        within=_within(found, known, said),
        launch=Launch(seconds=found["launch_s"], source=said) if "launch_s" in found else known.launch,
        gpus_per_host=found.get("gpus", known.gpus_per_host),
    )


def _known(name: str, found: dict[str, Any]) -> HardwareSpec:
    """The catalogue's hardware that fills what was not measured: of this kind, else of its family."""
    try:
        return hardware.find(name)
    except UnknownName:
        family = _FAMILIES.get(found.get("capability", ""), "hopper")
        kinds = (hardware.find(kind) for kind in hardware.names())
        return next((kind for kind in kinds if kind.family == family), hardware.find("h100"))


def _rates(found: dict[str, Any], known: HardwareSpec, said: str, *, cuda: bool) -> dict[str, Rate]:
    """Measured rates; other formats keep their ratio to BF16."""
    reaches = PRODUCT_REACHES if cuda else 1.0
    measured = {name: value / reaches for name, value in found["rates"].items()}
    if not cuda and "fp32" in measured:
        # A CPU without BF16 products of its own computes them in FP32, as the engine's kernels do.
        measured["bf16"] = max(measured.values())
    measured.setdefault("bf16", known.rates["bf16"].flop_per_s)
    kept = measured["bf16"] / known.rates["bf16"].flop_per_s
    whole = f"; such a product reaches {reaches:.0%} of it" if cuda else ""
    rates = {
        name: Rate(flop_per_s=rate.flop_per_s * kept, source=f"not measured: the ratio to BF16 of {known.name}")
        for name, rate in known.rates.items()
    }
    own = {
        name: Rate(flop_per_s=value, source=said + whole if name in found["rates"] else _unmeasured(found, known))
        for name, value in measured.items()
    }
    return {**rates, **own}


def _unmeasured(found: dict[str, Any], known: HardwareSpec) -> str:
    return "not measured: as FP32 is" if found["rates"] else f"not measured: of {known.name}"


def _within(found: dict[str, Any], known: HardwareSpec, said: str) -> Interconnect:
    if "all_reduce_latency_s" not in found:
        why = found["missing"].get("all_reduce", "not measured")
        return known.within.with_(source=f"not measured ({why}): of {known.name}")
    return Interconnect(
        latency_s=found["all_reduce_latency_s"],
        bytes_per_s=found["all_reduce_bytes_per_s"],
        source=f"{said}, all-reduce of 8 KB and of 64 MB between {found['ranks']} ranks",
    )
