"""Field types that read text with units: `Seconds` takes 0.1, "100 ms" or "7 d" and holds SI floats."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from capacity.units import EXAMPLES, parse


class Spec(BaseModel):
    """Base of everything a user writes: frozen, no unknown keys, field docstrings become the reference."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


DESCRIBED = ConfigDict(use_attribute_docstrings=False)
"""Of generic models, which state descriptions as `Field`: for each of their kinds pydantic would search all modules."""


def _reader(dimension: str) -> BeforeValidator:
    def read(value: Any) -> float:  # noqa: ANN401  (pydantic hands over whatever the document held)
        return parse(value, dimension)

    return BeforeValidator(read)


STARTS_WITH_A_NUMBER = r"^\s*\$?\s*[-+]?\.?[0-9]"
"""What an editor can check of a text with a unit; `units.parse` checks the rest."""


def _schema(dimension: str, **bounds: float) -> WithJsonSchema:
    members = [{"type": "number", **bounds}, {"type": "string", "pattern": STARTS_WITH_A_NUMBER}]
    wanted = f"SI number, or text with a unit: {EXAMPLES[dimension]}"
    return WithJsonSchema({"anyOf": members, "description": wanted, "examples": EXAMPLES[dimension].split(" or ")})


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"expected a whole number, got {value:g}")
    return int(value)


Seconds = Annotated[float, _reader("seconds"), Field(gt=0, ge=1e-9, le=1e12), _schema("seconds", exclusiveMinimum=0)]
Duration = Annotated[float, _reader("seconds"), Field(ge=0, le=1e12), _schema("seconds", minimum=0)]
Bytes = Annotated[float, _reader("bytes"), Field(gt=0, le=1e24), _schema("bytes", exclusiveMinimum=0)]
ByteAmount = Annotated[float, _reader("bytes"), Field(ge=0, le=1e24), _schema("bytes", minimum=0)]
BytesPerSecond = Annotated[float, _reader("bytes/s"), Field(gt=0, le=1e18), _schema("bytes/s", exclusiveMinimum=0)]
FlopPerSecond = Annotated[float, _reader("FLOP/s"), Field(gt=0, le=1e21), _schema("FLOP/s", exclusiveMinimum=0)]
Hertz = Annotated[float, _reader("hertz"), Field(gt=0, le=1e12), _schema("hertz", exclusiveMinimum=0)]
Watts = Annotated[float, _reader("watts"), Field(gt=0, le=1e9), _schema("watts", exclusiveMinimum=0)]
PerSecond = Annotated[float, _reader("per second"), Field(gt=0, le=1e12), _schema("per second", exclusiveMinimum=0)]
RateAmount = Annotated[float, _reader("per second"), Field(ge=0, le=1e12), _schema("per second", minimum=0)]
Fraction = Annotated[float, _reader("fraction"), Field(ge=0, le=1), _schema("fraction", minimum=0, maximum=1)]
Change = Annotated[float, _reader("fraction"), Field(gt=-1, le=1), _schema("fraction", minimum=-1, maximum=1)]
Factor = Annotated[float, _reader("count"), Field(gt=0, le=1e6), _schema("count", exclusiveMinimum=0)]
Number = Annotated[float, _reader("count"), Field(ge=0, le=1e18), _schema("count", minimum=0)]
LogSigma = Annotated[float, _reader("count"), Field(ge=0, le=10), _schema("count", minimum=0, maximum=10)]
Count = Annotated[int, _reader("count"), Field(ge=1, le=10**15), AfterValidator(_whole), _schema("count", minimum=1)]
CountAmount = Annotated[
    int, _reader("count"), Field(ge=0, le=10**15), AfterValidator(_whole), _schema("count", minimum=0)
]
Usd = Annotated[float, _reader("usd"), Field(ge=0, le=1e15), _schema("usd", minimum=0)]
UsdPerHour = Annotated[float, _reader("usd/hour"), Field(gt=0, le=1e9), _schema("usd/hour", exclusiveMinimum=0)]
UsdPerMonth = Annotated[float, _reader("usd/month"), Field(ge=0, le=1e12), _schema("usd/month", minimum=0)]
UsdPerKwh = Annotated[float, _reader("usd/kWh"), Field(ge=0, le=100), _schema("usd/kWh", minimum=0)]
UsdPerKwMonth = Annotated[float, _reader("usd/kW-month"), Field(ge=0, le=1e6), _schema("usd/kW-month", minimum=0)]
UsdPerGb = Annotated[float, _reader("usd/GB"), Field(ge=0, le=1e6), _schema("usd/GB", minimum=0)]
UsdPerGbMonth = Annotated[float, _reader("usd/GB-month"), Field(ge=0, le=1e6), _schema("usd/GB-month", minimum=0)]
KgPerKwh = Annotated[float, _reader("kg/kWh"), Field(ge=0, le=100), _schema("kg/kWh", minimum=0)]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+-]*$", max_length=80)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=60)]
T = TypeVar("T")


def distinct(entries: tuple[T, ...]) -> tuple[T, ...]:
    """Return `entries` if each has a name of its own: overrides and reports call them by it."""
    names = [str(getattr(entry, "name", "")) for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names must differ, {', '.join(twice)} stands more than once")
    return entries
