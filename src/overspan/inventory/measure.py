"""Measure the machine at hand and write what was measured as a hardware YAML that the planner takes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from overspan.catalog import hardware
from overspan.inventory.host import kind_of
from overspan.schema.errors import EngineMissing, InputError, OverspanError, UnknownName
from overspan.schema.hardware import LAUNCH_S, Bandwidth, DeviceMemory, HardwareSpec, Interconnect, Launch, Rate
from overspan.schema.inventory import Host
from overspan.schema.units import count
from overspan.transport.local import Local

SCRIPT: Final = Path(__file__).with_name("engine_side") / "five_numbers.py"
# A hardware file holds the chip's own numbers (overspan.schema.hardware); these are the shares of them that the tests
# of five_numbers.py reach on a GPU, and the least that is still the same chip.
COPY_REACHES: Final = 0.87  # 4.17 of 4.8 TB/s on one H200; 4.3 by others (docs/sources.md#counted-bytes)
_COPY_LEAST: Final = 0.78
PRODUCT_REACHES: Final = 0.79  # 781 of 989 TFLOP/s in BF16 on the same H200 (benchmarks/data/README.md)
_PRODUCT_LEAST: Final = 0.66  # 650 of 989 on an H100 at its power cap (products of 8192 in cuBLAS, public reports)
_LAUNCH_FACTOR: Final = 1.25  # 4.9 to 7.5 us: hosts of one kind differ by so much
_TOO_MUCH: Final = 1.02  # of the chip's own: what a clock errs in some milliseconds
# By compute capability (NVIDIA, CUDA GPUs).
_FAMILIES: Final[dict[str, str]] = {
    "8.0": "ampere", "8.6": "ampere", "8.9": "ada", "9.0": "hopper", "10.0": "blackwell", "10.3": "blackwell",
    "12.0": "blackwell-consumer", "12.1": "blackwell-consumer",
}  # fmt: skip
_LIMIT_S: Final = 300.0
_AGAIN: Final = "nothing was written; end what else runs on this machine, and calibrate again"


def numbers(python: str, ranks: int | None = None, *, gpus: int = 0) -> dict[str, Any]:
    """The five numbers, measured by a Python on this machine.

    Args:
        python: an interpreter; torch is used where it has it.
        ranks: processes of the all-reduce; all GPUs, or 2 on a CPU, where not given.
        gpus: of this machine; where there are any, they are measured or nothing is.

    Raises:
        EngineMissing: the machine has GPUs, and this Python has no torch that can use them.
        OverspanError: the script died; quotes its last line.
    """
    if gpus:
        _need_cuda(python, gpus)
    argv = [python, str(SCRIPT), *([str(ranks)] if ranks else [])]
    found: dict[str, Any] = _answer(argv)
    return found


def _need_cuda(python: str, gpus: int) -> None:
    held = _answer([python, str(SCRIPT), "--device"])
    if held["device"] == "cuda":
        return
    have = f"this machine has {count(gpus, 'GPU')}"
    raise EngineMissing(
        f"{have}, and {python} {held['why']}: only the CPU could be measured; nothing was written",
        next="overspan calibrate --python PATH, a Python whose torch can use the GPUs; or name an engine that has it: "
        "overspan engine use PATH",
    )


def _answer(argv: list[str]) -> Any:
    """The JSON object that the script prints."""
    done = Local().run(argv, timeout_s=_LIMIT_S, env={"TOKENIZERS_PARALLELISM": "false"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.code or not lines:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise OverspanError(
            "the process that measures ended with an error", quote=said[-1] if said else None, next=" ".join(argv)
        )
    return json.loads(lines[-1])


def spec_of(found: dict[str, Any], host: Host, when: str) -> HardwareSpec:
    """The hardware of measured numbers; what was not measured is the catalogue's, and its source says so.

    A GPU of a known kind keeps the catalogue's number where the test reached of it what it usually does: such a test
    says whether the chip is what it should be, and less of its own rates than its data sheet.

    Args:
        found: what `numbers` gave.
        host: this machine.
        when: date of the measurement, for the sources.

    Raises:
        InputError: a number is none, or above the chip's own: this was no sound measurement.
    """
    cuda = found["device"] == "cuda"
    kind = kind_of(found["gpu"]) if cuda else "cpu"
    known = _known(kind, found)
    _sound(found, known if cuda and known.name == kind else None)
    try:
        return _filled(found, host, known, said=f"measured {when} with {found['with']}", same=known.name == kind)
    except ValidationError as error:
        held = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
        raise InputError(f"what was measured is no {kind}: {held}", next=_AGAIN) from None


def _filled(found: dict[str, Any], host: Host, known: HardwareSpec, *, said: str, same: bool) -> HardwareSpec:
    """The catalogue's hardware with what was measured in it; `same`: it is of this very chip, not of its family."""
    cuda = found["device"] == "cuda"
    memory = DeviceMemory(
        bytes=found.get("memory_bytes", host.memory_bytes),
        source=said if cuda else "this machine's own",
        unified=known.memory.unified,
        reserve_bytes=known.memory.reserve_bytes,
    )
    copy, source = found["copy_bytes_per_s"], f"{said} (copy, read and written)"
    if cuda:
        sheet = known.bandwidth.bytes_per_s if same else None
        copy, source = _own(copy, sheet, (COPY_REACHES, _COPY_LEAST), f"{said}; a copy")
    return known.with_(
        name=f"my-{kind_of(found['gpu']) if cuda else 'cpu'}",
        names=[],
        pci=[],
        family=_FAMILIES.get(found.get("capability", ""), known.family),
        memory=memory,
        bandwidth=Bandwidth(bytes_per_s=copy, source=source),
        rates=_gpu_rates(found, known, said, same=same) if cuda else _cpu_rates(found, known, said),
        within=_within(found, known, said),
        launch=_launch(found, known, said, cuda=cuda),
        gpus_per_host=found.get("gpus", known.gpus_per_host),
    )


def beside_catalogue(spec: HardwareSpec) -> str:
    """What a person may expect of a measured file, in one sentence."""
    try:
        known = hardware.find(spec.name.removeprefix("my-"))
    except UnknownName:
        return (
            "the catalogue has no such GPU: how near predictions are is seen with calibrate --from RUN --hardware FILE"
        )
    pairs = {
        "bandwidth": (spec.bandwidth.bytes_per_s, known.bandwidth.bytes_per_s),
        "rates": (spec.rates["bf16"].flop_per_s, known.rates["bf16"].flop_per_s),
        "within": (spec.within.with_(source="-"), known.within.with_(source="-")),
        "launch": (spec.launch, known.launch),
    }
    other = [name for name, (mine, theirs) in pairs.items() if mine != theirs]
    if not other:
        agrees = f"every number agrees with the catalogue's {known.name}"
        return f"{agrees}: this file predicts as the catalogue does, no better"
    return (
        f"{', '.join(other)}: not as the catalogue's {known.name}. Whether this predicts better is not known: "
        "overspan calibrate --from RUN --hardware FILE says it"
    )


def _sound(found: dict[str, Any], own: HardwareSpec | None) -> None:
    """Refuse what no clock of a sound machine gives.

    Args:
        found: what was measured.
        own: the catalogue's numbers of this very chip, where it has them.
    """
    rates = found["rates"]
    single = ("copy_bytes_per_s", "launch_s", "all_reduce_latency_s", "all_reduce_bytes_per_s", "memory_bytes")
    numbers = {name: found[name] for name in single if name in found}
    numbers |= {f"rates.{name}": value for name, value in rates.items()}
    for name, value in numbers.items():
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or value <= 0:
            raise InputError(f"the measurement gave {name} = {value!r:.40}: no number above 0", next=_AGAIN)
    if own is None:
        return
    limits = {"copy_bytes_per_s": own.bandwidth.bytes_per_s}
    limits |= {f"rates.{name}": rate.flop_per_s for name, rate in own.rates.items()}
    for name, limit in limits.items():
        if numbers.get(name, 0) > limit * _TOO_MUCH:
            what = f"the measurement gave {name} = {numbers[name]:.4g}, and a {own.name} itself has {limit:.4g}"
            raise InputError(what, next=_AGAIN)


def _own(value: float, sheet: float | None, reaches: tuple[float, float], said: str) -> tuple[float, str]:
    """The chip's own number behind a measured one, and its source."""
    usual, least = reaches
    if sheet is None:
        return value / usual, f"{said} reaches {usual:.0%} of it on other GPUs; it gave {value:.4g}"
    share = value / sheet
    if share >= least:
        return sheet, f"the catalogue's; {said} reached {share:.0%} of it ({value:.4g})"
    return min(sheet, value / usual), f"{said} gave {value:.4g}, {share:.0%} of {sheet:.4g}; {usual:.0%} is usual"


def _launch(found: dict[str, Any], known: HardwareSpec, said: str, *, cuda: bool) -> Launch | None:
    if "launch_s" not in found:
        return known.launch
    usual = known.launch.seconds if known.launch else LAUNCH_S
    if cuda and usual / _LAUNCH_FACTOR <= found["launch_s"] <= usual * _LAUNCH_FACTOR:
        return known.launch
    return Launch(seconds=found["launch_s"], source=said)


def _known(name: str, found: dict[str, Any]) -> HardwareSpec:
    """The catalogue's hardware that fills what was not measured: of this kind, else of its family."""
    try:
        return hardware.find(name)
    except UnknownName:
        family = _FAMILIES.get(found.get("capability", ""), "hopper")
        kinds = (hardware.find(kind) for kind in hardware.names())
        return next((kind for kind in kinds if kind.family == family), hardware.find("h100"))


def _gpu_rates(found: dict[str, Any], known: HardwareSpec, said: str, *, same: bool) -> dict[str, Rate]:
    """The chip's rate in BF16; those of other formats keep their ratio to it."""
    base = known.rates["bf16"].flop_per_s
    if "bf16" not in found["rates"]:
        return {str(name): rate.with_(source=f"not measured: of {known.name}") for name, rate in known.rates.items()}
    reaches = (PRODUCT_REACHES, _PRODUCT_LEAST)
    own, source = _own(found["rates"]["bf16"], base if same else None, reaches, f"{said}; a product of 8192")
    rates: dict[str, Rate] = {
        name: Rate(flop_per_s=rate.flop_per_s * own / base, source=f"not measured: the ratio to BF16 of {known.name}")
        for name, rate in known.rates.items()
    }
    return {**rates, "bf16": Rate(flop_per_s=own, source=source)}


def _cpu_rates(found: dict[str, Any], known: HardwareSpec, said: str) -> dict[str, Rate]:
    """Measured rates; other formats keep their ratio to BF16."""
    measured = dict(found["rates"])
    if "fp32" in measured:
        # A CPU without BF16 products of its own computes them in FP32, as the engine's kernels do.
        measured["bf16"] = max(measured.values())
    measured.setdefault("bf16", known.rates["bf16"].flop_per_s)
    kept = measured["bf16"] / known.rates["bf16"].flop_per_s
    rates = {
        name: Rate(flop_per_s=rate.flop_per_s * kept, source=f"not measured: the ratio to BF16 of {known.name}")
        for name, rate in known.rates.items()
    }
    own = {
        name: Rate(flop_per_s=value, source=said if name in found["rates"] else _unmeasured(found, known))
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
        bytes_per_s=found["all_reduce_bytes_per_s"] if found["device"] != "cuda" else _capped(found, known),
        source=f"{said}, all-reduce of 8 KB and of 64 MB between {found['ranks']} ranks",
    )


def _capped(found: dict[str, Any], known: HardwareSpec) -> float:
    """Sums in the switch (NVLink SHARP) move fewer bytes than the ring that a bus bandwidth counts."""
    measured: float = found["all_reduce_bytes_per_s"]
    return min(measured, known.within.bytes_per_s) if known.name == kind_of(found["gpu"]) else measured
