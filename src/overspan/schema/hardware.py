"""One kind of accelerator as numbers, each with its source. Rates are dense: without sparsity.

Bandwidth and rates are the chip's own, as its data sheet has them: nothing that is measured is above them. What of them
is reached is in the predictor's constants (catalog/fitted.yaml), which multiply times at these rates. A launch, and a
small all-reduce, are times as they are measured. `overspan calibrate` writes, and predictions read, the same.
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from overspan.schema.base import Frozen

# What the fixed costs were learned on: H100, H200 and B200-class all boost to about this.
_USUAL_HZ: Final = 1.98e9
# One eager operation of PyTorch on a server's CPU, as `overspan calibrate` measures it; `layer_eager` is learned at it.
LAUNCH_S: Final = 6e-6


def _within(slowest: float, fastest: float, unit: str, *powers: int) -> AfterValidator:
    """Limits outside of which a number is in the wrong unit, and the powers of ten by which people miss."""

    def check(value: float) -> float:
        if slowest <= value <= fastest:
            return value
        meant = [f"{value:g}e{power}" for power in powers if slowest <= value * 10.0**power <= fastest]
        hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
        raise ValueError(f"{value:g} is no plausible value in {unit}{hint}")

    return AfterValidator(check)


# Of accelerators, where each field's own limits leave room for CPUs: the slowest and fastest of 2020 to 2026, with room
# on both sides. A slip of a thousandfold (TB for GB, ms for us) falls outside. Source: the sheets in catalog/hardware.
_ACCELERATOR: Final[dict[str, tuple[float, float]]] = {
    "memory.bytes": (4e9, 5e12),
    "bandwidth.bytes_per_s": (5e10, 1e14),
    "rates.bf16.flop_per_s": (5e12, 5e16),
    "within.latency_s": (5e-7, 1e-3),
    "within.bytes_per_s": (2e9, 1e14),
}
_ANY: Final = {
    "within.bytes_per_s": (1e8, 1e14), "between.latency_s": (5e-7, 1e-2), "between.bytes_per_s": (1e8, 1e13),
    "launch.seconds": (2e-7, 1e-3), "memory.reserve_bytes": (1e8, 1e12),
}  # fmt: skip
# Dense rates beside BF16's; a sheet's numbers with sparsity are twice as high. FP32 may be vector or tensor (TF32).
_BESIDE_BF16: Final = {"fp8": (0.9, 2.5), "fp4": (1.5, 8.5), "int8": (0.01, 2.5), "fp32": (0.005, 1.1)}


def _plausible(field: str, value: float, limits: tuple[float, float]) -> None:
    """Refuse a number outside of limits, with what it may have been meant as."""
    low, high = limits
    if low <= value <= high:
        return
    shifts = (value * 10.0**power for power in (3, -3, 6, -6, 9, 12))
    meant = " or ".join(f"{shifted:g}" for shifted in shifts if low <= shifted <= high)
    raise ValueError(
        f"{field} is {value:g}: no plausible value there ({low:g} to {high:g})"
        + (f"; did you mean {meant}?" if meant else "")
    )


# From the slowest to the fastest of 2026, with room on both sides.
Bytes = Annotated[float, _within(1e9, 1e13, "bytes", 9)]
BytesPerSecond = Annotated[float, _within(1e7, 1e14, "bytes per second", 9, 12)]
FlopPerSecond = Annotated[float, _within(1e9, 1e18, "operations per second", 12)]
Seconds = Annotated[float, _within(1e-8, 1e-1, "seconds", -6)]
Hertz = Annotated[float, _within(3e8, 1e10, "hertz", 9, 6)]
Source = Annotated[str, Field(min_length=1)]


class Bandwidth(Frozen):
    """Bytes a second, one direction."""

    bytes_per_s: BytesPerSecond
    source: Source


class Rate(Frozen):
    """Dense operations a second in one format."""

    flop_per_s: FlopPerSecond
    source: Source


class DeviceMemory(Frozen):
    """What the driver shows."""

    bytes: Bytes
    source: Source
    unified: bool = False
    reserve_bytes: float = Field(0, ge=0, description="what the system keeps of unified memory")


class Interconnect(Frozen):
    """How GPUs reach each other: the time of a small all-reduce, and bytes a second in one direction."""

    latency_s: Seconds
    bytes_per_s: BytesPerSecond
    source: Source


class Launch(Frozen):
    """What the host spends on starting one operation without graphs."""

    seconds: Seconds
    source: Source


class Clock(Frozen):
    """The boost clock of the GPU's processors."""

    hz: Hertz
    source: Source


class HardwareSpec(Frozen):
    """One kind of accelerator. `within` joins GPUs of one host, `between` hosts.

    `constants` replaces constants of the predictor where runs on this very hardware were measured (`fitted_to`).
    """

    name: str
    names: list[str] = Field(default_factory=list, description="parts of the name that the driver gives it")
    pci: list[str] = Field(default_factory=list, description="PCI device ids, in hex; source: pci-ids.ucw.cz, 10de")
    compute_capability: str | None = Field(None, description="source: developer.nvidia.com/cuda-gpus")
    family: Literal["cpu", "ampere", "ada", "hopper", "blackwell", "blackwell-consumer"]
    memory: DeviceMemory
    bandwidth: Bandwidth
    rates: dict[Literal["bf16", "fp8", "fp4", "int8", "fp32"], Rate]
    within: Interconnect
    between: Interconnect
    gpus_per_host: int = Field(8, ge=1)
    clock: Clock | None = None
    launch: Launch | None = None
    constants: dict[str, float] = Field(default_factory=dict)
    fitted_to: list[str] = Field(default_factory=list, description="the measured points behind `constants`")
    scatter: float = Field(
        0, ge=0, description="relative error of TPOT that stays on those points: intervals are never narrower"
    )
    ttft_scatter: float = Field(0, ge=0, description="the same of TTFT")
    domain_gpus: int = Field(0, ge=0, description="GPUs that `within` joins over hosts too; 0: it ends at the host")

    @property
    def latency_factor(self) -> float:
        """How much longer short kernels take than at the usual clock; a faster one does not shorten memory latency."""
        return max(1.0, _USUAL_HZ / self.clock.hz) if self.clock else 1.0

    def rate(self, compute_format: str) -> float:
        """Operations a second in a format; one that the hardware lacks runs in BF16."""
        held = self.rates.get(compute_format)  # type: ignore[call-overload]
        return float((held or self.rates["bf16"]).flop_per_s)

    @field_validator("memory", "bandwidth", "rates", "within", "between", "launch")
    @classmethod
    def _units(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what no accelerator is, though some machine may be: a slip of the unit by a thousand."""
        part = info.field_name or ""
        if part == "rates":
            return cls._rates(value, accelerator=info.data.get("family") != "cpu")
        limits = _ANY if info.data.get("family") == "cpu" else {**_ANY, **_ACCELERATOR}
        for field, held in limits.items():
            number = getattr(value, field.partition(".")[2], None) if field.startswith(f"{part}.") else None
            if number is not None and not (field == "memory.reserve_bytes" and number == 0):
                _plausible(field, number, held)
        return value

    @staticmethod
    def _rates(value: dict[str, Rate], *, accelerator: bool) -> dict[str, Rate]:
        if "bf16" not in value:
            raise ValueError("needs at least the rate of bf16")
        if accelerator:
            base = value["bf16"].flop_per_s
            _plausible("rates.bf16.flop_per_s", base, _ACCELERATOR["rates.bf16.flop_per_s"])
            for name, (low, high) in _BESIDE_BF16.items():
                if name in value:
                    _plausible(f"rates.{name}.flop_per_s", value[name].flop_per_s, (low * base, high * base))
        return value

    @model_validator(mode="after")
    def _links(self) -> Self:
        """Refuse a link that is faster than the memory at its ends, and a reserve that leaves no memory."""
        for name, link in (("within", self.within), ("between", self.between)):
            if self.family != "cpu" and link.bytes_per_s > self.bandwidth.bytes_per_s:
                raise ValueError(
                    f"{name}.bytes_per_s is {link.bytes_per_s:g}: more than the memory's {self.bandwidth.bytes_per_s:g}"
                )
        if self.memory.reserve_bytes > self.memory.bytes / 2:
            raise ValueError(f"memory.reserve_bytes is {self.memory.reserve_bytes:g} of {self.memory.bytes:g}")
        return self
