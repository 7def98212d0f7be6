"""One kind of accelerator as numbers, each with its source. Rates are dense: without sparsity."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, field_validator

from overspan.schema.base import Frozen

# What the fixed costs were learned on: H100, H200 and B200-class all boost to about this.
_USUAL_HZ: Final = 1.98e9


def _within(slowest: float, fastest: float, unit: str, *powers: int) -> AfterValidator:
    """Limits outside of which a number is in the wrong unit, and the powers of ten by which people miss."""

    def check(value: float) -> float:
        if slowest <= value <= fastest:
            return value
        meant = [f"{value:g}e{power}" for power in powers if slowest <= value * 10.0**power <= fastest]
        hint = f"; did you mean {meant[0]}?" if meant else ""
        raise ValueError(f"{value:g} is no plausible value in {unit}{hint}")

    return AfterValidator(check)


# From the slowest to the fastest of 2026, with room on both sides.
Bytes = Annotated[float, _within(1e9, 1e13, "bytes", 9)]
BytesPerSecond = Annotated[float, _within(1e7, 1e15, "bytes per second", 9)]
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


class Memory(Frozen):
    """What the driver shows."""

    bytes: Bytes
    source: Source
    unified: bool = False
    reserve_bytes: float = Field(0, ge=0, description="what the system keeps of unified memory")


class Link(Frozen):
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
    family: Literal["cpu", "ampere", "ada", "hopper", "blackwell", "blackwell-consumer"]
    memory: Memory
    bandwidth: Bandwidth
    rates: dict[Literal["bf16", "fp8", "fp4", "int8", "fp32"], Rate]
    within: Link
    between: Link
    gpus_per_host: int = Field(8, ge=1)
    clock: Clock | None = None
    launch: Launch | None = None
    constants: dict[str, float] = Field(default_factory=dict)
    fitted_to: list[str] = Field(default_factory=list, description="the measured points behind `constants`")
    domain_gpus: int = Field(0, ge=0, description="GPUs that `within` joins over hosts too; 0: it ends at the host")

    @property
    def latency_factor(self) -> float:
        """How much longer short kernels take than at the usual clock; a faster one does not shorten memory latency."""
        return max(1.0, _USUAL_HZ / self.clock.hz) if self.clock else 1.0

    def rate(self, compute_format: str) -> float:
        """Operations a second in a format; one that the hardware lacks runs in BF16."""
        held = self.rates.get(compute_format)  # type: ignore[call-overload]
        return float((held or self.rates["bf16"]).flop_per_s)

    @field_validator("rates")
    @classmethod
    def _has_bf16(cls, value: dict[str, Rate]) -> dict[str, Rate]:
        if "bf16" not in value:
            raise ValueError("needs at least the rate of bf16")
        return value
