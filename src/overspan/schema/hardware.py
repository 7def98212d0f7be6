"""One kind of accelerator as numbers, each with its source. Rates are dense: without sparsity."""

from typing import Final, Literal

from pydantic import Field, field_validator

from overspan.schema.base import Frozen

# Outside these a number is in the wrong unit. Slowest and fastest of 2026, with room on both sides.
_BANDWIDTH: Final = (1e7, 1e15)
_RATE: Final = (1e9, 1e18)
_LATENCY: Final = (1e-8, 1e-1)
_CLOCK: Final = (3e8, 1e10)
# What the fixed costs were learned on: H100, H200 and B200-class all boost to about this.
_USUAL_HZ: Final = 1.98e9
_MEMORY: Final = (1e9, 1e13)


def _in_units(value: float, limits: tuple[float, float], unit: str, power: int) -> float:
    if limits[0] <= value <= limits[1]:
        return value
    scaled = value * 10.0**power
    hint = f"; did you mean {value:g}e{power}?" if limits[0] <= scaled <= limits[1] else ""
    raise ValueError(f"{value:g} is no plausible value in {unit}{hint}")


class Bandwidth(Frozen):
    """Bytes a second, one direction."""

    bytes_per_s: float
    source: str = Field(min_length=1)

    @field_validator("bytes_per_s")
    @classmethod
    def _unit(cls, value: float) -> float:
        return _in_units(value, _BANDWIDTH, "bytes per second", 9)


class Rate(Frozen):
    """Dense operations a second in one format."""

    flop_per_s: float
    source: str = Field(min_length=1)

    @field_validator("flop_per_s")
    @classmethod
    def _unit(cls, value: float) -> float:
        return _in_units(value, _RATE, "operations per second", 12)


class Memory(Frozen):
    """What the driver shows."""

    bytes: float
    source: str = Field(min_length=1)
    unified: bool = False
    reserve_bytes: float = Field(0, ge=0, description="what the system keeps of unified memory")

    @field_validator("bytes")
    @classmethod
    def _unit(cls, value: float) -> float:
        return _in_units(value, _MEMORY, "bytes", 9)


class Link(Frozen):
    """How GPUs reach each other: the time of a small all-reduce, and bytes a second in one direction."""

    latency_s: float
    bytes_per_s: float
    source: str = Field(min_length=1)

    @field_validator("latency_s")
    @classmethod
    def _latency_unit(cls, value: float) -> float:
        return _in_units(value, _LATENCY, "seconds", -6)

    @field_validator("bytes_per_s")
    @classmethod
    def _unit(cls, value: float) -> float:
        return _in_units(value, _BANDWIDTH, "bytes per second", 9)


class Launch(Frozen):
    """What the host spends on starting one operation without graphs."""

    seconds: float
    source: str = Field(min_length=1)

    @field_validator("seconds")
    @classmethod
    def _unit(cls, value: float) -> float:
        return _in_units(value, _LATENCY, "seconds", -6)


class Clock(Frozen):
    """The boost clock of the GPU's processors."""

    hz: float
    source: str = Field(min_length=1)

    @field_validator("hz")
    @classmethod
    def _unit(cls, value: float) -> float:
        return _in_units(value, _CLOCK, "hertz", 9 if value < 100 else 6)


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
