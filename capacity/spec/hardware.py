"""A device as its datasheet states it: dense rates, bandwidth, memory, links, power; each fact with source and date.

No efficiency lives here. What a device really reaches is fitted and stands in a calibration.
A fact nobody could source is left out (`None`): unknown is never 0.
"""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from capacity.spec.quantity import (
    DESCRIBED,
    Bytes,
    BytesPerSecond,
    Count,
    FlopPerSecond,
    Hertz,
    Id,
    Spec,
    Watts,
)

Dtype = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4", "int4"]
DTYPE_BYTES: dict[str, float] = {
    "fp64": 8, "fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1, "fp4": 0.5, "int4": 0.5,
}  # fmt: skip
T = TypeVar("T")


class Source(Spec):
    """Where facts were read, and when."""

    citation: Annotated[str, Field(min_length=3)]
    """Document, page or address, precise enough to find the value again."""
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
    """Date of the document or of the reading, YYYY-MM-DD (or YYYY-MM, YYYY)."""


class Fact(Spec, Generic[T]):
    """A value together with the key of its source in `sources`."""

    model_config = DESCRIBED
    value: T
    source: str = Field(description="Key in the profile's `sources`.")
    note: str = Field("", description="Disagreement between sources, or how the value was derived.")


class Link(Spec):
    """How devices of this kind talk to each other inside one host or rack."""

    kind: str
    """Name of the interconnect, e.g. NVLink4, Infinity Fabric, PCIe."""
    bandwidth: BytesPerSecond
    """Per device and direction [byte/s]."""
    devices: Count | None = None
    """Devices in one link domain; unknown when absent."""


class Hardware(Spec):
    """A hardware profile: one device (a GPU, an accelerator, or one CPU socket)."""

    id: Id
    name: str
    vendor: str
    kind: Literal["gpu", "cpu", "accelerator"]
    architecture: str | None = None
    """Chip generation, e.g. ampere; relatives share it when efficiencies are carried over."""
    year: Annotated[int, Field(ge=1990, le=2100)] | None = None
    sources: dict[str, Source]
    memory: Fact[Bytes] | None = None
    """Memory a program can address [byte]. For CPUs the memory of a typical host socket, else unknown."""
    memory_type: str | None = None
    memory_bandwidth: Fact[BytesPerSecond] | None = None
    dense_rates: dict[Dtype, Fact[FlopPerSecond]] = Field(default_factory=dict)
    """Dense matrix rate by dtype, never the 2:4 sparse one [FLOP/s]."""
    last_level_cache: Fact[Bytes] | None = None
    """L2 of a GPU, L3 of a CPU [byte]."""
    cores: Fact[Count] | None = None
    """SMs, compute units or CPU cores."""
    clock: Fact[Hertz] | None = None
    """Boost clock of GPUs (the one the dense rates are quoted at), base clock of CPUs."""
    instruction_sets: tuple[str, ...] = ()
    """CPU units that matter for matrix work: avx2, avx512, avx512_bf16, avx512_vnni, amx_bf16, amx_int8, sve, …"""
    link: Fact[Link] | None = None
    host_bandwidth: Fact[BytesPerSecond] | None = None
    """To the host, per direction [byte/s] (PCIe or C2C)."""
    power: Fact[Watts] | None = None
    """Board or socket power limit (TDP) [W]."""
    idle_power: Fact[Watts] | None = None

    @model_validator(mode="after")
    def _sources_exist(self) -> Hardware:
        for name in type(self).model_fields:
            value = getattr(self, name)
            facts = {(name, key): fact for key, fact in value.items()} if name == "dense_rates" else {(name,): value}
            for place, fact in facts.items():
                if isinstance(fact, Fact) and fact.source not in self.sources:
                    what = f"cites source {fact.source!r}, which `sources` does not hold"
                    raise PydanticCustomError("elsewhere", "{what}", {"what": what, "at": (*place, "source")})
        return self

    def rate(self, dtype: str) -> float | None:
        """Return the dense rate of `dtype` [FLOP/s], or None when unknown (fp32 on tensor cores is tf32)."""
        fact = self.dense_rates.get(dtype)  # type: ignore[call-overload]
        return fact.value if fact else None
