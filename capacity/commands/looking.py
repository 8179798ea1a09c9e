"""`capacity hardware`, `model`, `schema` and `dashboard`: looking at what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from rich.table import Table

from capacity import catalogue, documents, files
from capacity.commands.planning import console
from capacity.errors import CapacityError, InputError, Problem, UnknownNameError
from capacity.spec.apis import ApiPrice
from capacity.spec.calibration import Calibration, Shared
from capacity.spec.hardware import DTYPE_BYTES, Fact, Hardware
from capacity.spec.model import Model, TransformerModel
from capacity.spec.outlook import Outlook
from capacity.spec.prices import DevicePrice, PurchasePrice, Rates
from capacity.spec.scenario import Domain, Scenario
from capacity.spec.space import Space
from capacity.timing import transfer
from capacity.units import text
from capacity.work.models import architecture, parameters
from capacity.work.operations import total_bytes, total_counter_flop, total_flop
from capacity.work.transformer import encode

screen = console()
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMAS: dict[str, Any] = {
    "hardware": Hardware, "model": TypeAdapter(Model), "scenario": Scenario, "domain": Domain,
    "calibration": Calibration, "shared": Shared, "rates": Rates, "device-price": DevicePrice,
    "purchase-price": PurchasePrice, "api-price": ApiPrice, "outlook": Outlook, "space": Space,
}  # fmt: skip
DIMENSIONS = {
    "memory": "bytes", "memory_bandwidth": "bytes/s", "last_level_cache": "bytes", "clock": "hertz", "power": "watts",
    "idle_power": "watts", "host_bandwidth": "bytes/s",
}  # fmt: skip


def profiles() -> dict[str, Hardware]:
    """Return every profile of the catalogue and of the user's calibrations, by id."""
    found = {name: catalogue.hardware(name) for name in documents.catalogue("hardware_profiles")}
    return found | {profile.id: profile for _, profile in catalogue.calibrations()}


def hardware_list(*, as_json: bool) -> int:
    """Print one line a device."""
    rows = [_headline(profile) for profile in profiles().values()]
    if as_json:
        print(json.dumps(rows))
        return 0
    table = Table("id", "name", "memory", "bandwidth", "16-bit dense", "power", title=f"{len(rows)} devices")
    for row in sorted(rows, key=lambda row: (row["kind"], row["id"])):
        rate = row["bf16_flop_per_s"] or row["fp16_flop_per_s"]
        cells = [
            (row["memory_bytes"], "bytes"),
            (row["memory_bandwidth_bytes_per_s"], "bytes/s"),
            (rate, "FLOP/s"),
            (row["power_w"], "watts"),
        ]
        table.add_row(
            row["id"], row["name"], *("unknown" if value is None else text(value, kind) for value, kind in cells)
        )
    screen.print(table)
    return 0


def _headline(profile: Hardware) -> dict[str, Any]:
    return {
        "id": profile.id, "name": profile.name, "vendor": profile.vendor, "kind": profile.kind,
        "memory_bytes": profile.memory.value if profile.memory else None,
        "memory_bandwidth_bytes_per_s": profile.memory_bandwidth.value if profile.memory_bandwidth else None,
        "fp32_flop_per_s": profile.rate("fp32"), "fp16_flop_per_s": profile.rate("fp16"),
        "bf16_flop_per_s": profile.rate("bf16"), "int8_op_per_s": profile.rate("int8"),
        "power_w": profile.power.value if profile.power else None,
    }  # fmt: skip


def hardware_show(name: str, *, as_json: bool) -> int:
    """Print every fact of one device with its source, and where its times come from."""
    brought = {profile.id: profile for _, profile in catalogue.calibrations()}
    profile = brought.get(name) or catalogue.hardware(name)
    device = transfer.device(profile, "fused", catalogue.calibrations(), catalogue.shared())
    if as_json:
        print(
            json.dumps(
                {
                    **profile.model_dump(mode="json", exclude_none=True),
                    "times": {"origin": device.origin, "basis": device.basis},
                }
            )
        )
        return 0
    table = Table("fact", "value", "source", "note", title=f"{profile.name} ({profile.id})")
    for fact_name, fact, dimension in _facts(profile):
        source = profile.sources[fact.source]
        value = text(fact.value, dimension) if isinstance(fact.value, int | float) else str(fact.value)
        table.add_row(fact_name, value, f"{source.citation[:60]} ({source.date})", fact.note)
    screen.print(table)
    unknown = [key for key in DIMENSIONS if getattr(profile, key) is None]
    screen.print(f"unknown: {', '.join(unknown) or 'nothing of the above'}", markup=False)
    screen.print(f"times: {device.basis}, from {device.origin}", markup=False)
    return 0


def _facts(profile: Hardware) -> list[tuple[str, Fact[Any], str]]:
    found: list[tuple[str, Fact[Any], str]] = [
        (f"dense {dtype}", fact, "FLOP/s") for dtype, fact in profile.dense_rates.items()
    ]
    for name in (*DIMENSIONS, "cores", "link"):
        fact = getattr(profile, name)
        if fact is None:
            continue
        if name == "link":
            found.append(
                (f"link {fact.value.kind}", fact.model_copy(update={"value": fact.value.bandwidth}), "bytes/s")
            )
        else:
            found.append((name.replace("_", " "), fact, DIMENSIONS.get(name, "count")))
    return found


def hardware_check(names: Sequence[str], *, as_json: bool) -> int:
    """Check profiles and print what looks wrong; exit 1 when anything does.

    Raises
    ------
    InputError
        When a profile cannot be read, with the problems of all of them.
    """
    found: dict[str, list[str]] = {}
    problems: list[Problem] = []
    for name in names or sorted(documents.catalogue("hardware_profiles")):
        try:
            found[name] = _doubts(catalogue.hardware(name), name)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if as_json:
        print(json.dumps(found))
    else:
        for name, doubts in found.items():
            for doubt in doubts:
                screen.print(f"{name}: {doubt}", markup=False)
        wrong = sum(bool(doubts) for doubts in found.values())
        screen.print(f"{len(found)} profiles checked, {wrong} with problems")
    return 1 if any(found.values()) else 0


def _doubts(profile: Hardware, name: str) -> list[str]:
    """Return what a reader should doubt in a profile."""
    doubts = []
    stem = Path(name).stem
    if profile.id != stem:
        doubts.append(f"id {profile.id!r} differs from the file's name {stem!r}")
    rates = {dtype: fact.value for dtype, fact in profile.dense_rates.items()}
    for wide, narrow in (("fp64", "fp32"), ("fp32", "fp16"), ("fp32", "bf16"), ("fp16", "fp8"), ("fp8", "fp4")):
        if wide in rates and narrow in rates and rates[wide] > rates[narrow] * 1.01:
            doubts.append(f"dense {wide} above dense {narrow}: is one of them sparse, or a unit wrong?")
    if profile.power and profile.idle_power and profile.idle_power.value >= profile.power.value:
        doubts.append("idle_power is not below power")
    if profile.memory_bandwidth and not 1e9 <= profile.memory_bandwidth.value <= 1e14:
        doubts.append(
            f"memory_bandwidth {text(profile.memory_bandwidth.value, 'bytes/s')} is out of any plausible range"
        )
    return doubts


def hardware_detect(output: Path | None, *, as_json: bool) -> int:
    """Print the profile of this machine's CPU and GPUs, or write them to a folder."""
    from kernels import machine

    found = machine.detect()
    if output is not None:
        for profile in found:
            files.write_text(output / f"{profile.id}.yaml", _profile_yaml(profile))
    if as_json:
        print(json.dumps([profile.model_dump(mode="json", exclude_none=True) for profile in found]))
    elif output is None:
        for profile in found:
            print(_profile_yaml(profile))
    else:
        screen.print(f"wrote {', '.join(f'{profile.id}.yaml' for profile in found)} to {output}")
    return 0


def _profile_yaml(profile: Hardware) -> str:
    import yaml

    return yaml.safe_dump(
        profile.model_dump(mode="json", exclude_none=True, exclude_defaults=True), sort_keys=False, allow_unicode=True
    )


def model_list(*, as_json: bool) -> int:
    """Print one line a model."""
    rows: list[dict[str, Any]] = []
    for name in sorted(documents.catalogue("model_profiles")):
        model = catalogue.model(name)
        rows.append({"id": model.id, "name": model.name, "family": model.family, "parameters": parameters(model)})
    if as_json:
        print(json.dumps(rows))
        return 0
    table = Table("id", "name", "family", "parameters", title=f"{len(rows)} models; any config.json by path works too")
    for row in rows:
        table.add_row(row["id"], row["name"], row["family"], text(row["parameters"], "count"))
    screen.print(table)
    return 0


def model_show(name: str, tokens: int, *, as_json: bool) -> int:
    """Print what one model is and what a pass over one sequence costs."""
    model = catalogue.model(name)
    facts: dict[str, Any] = {
        "id": model.id,
        "name": model.name,
        "family": model.family,
        "parameters": parameters(model),
    }
    if isinstance(model, TransformerModel):
        built = architecture(model)
        work = encode(built, 1, tokens, "fp16", "fused")
        facts |= {
            "active_parameters": built.active_parameters, "layers": built.layers, "hidden_size": built.layer.hidden,
            "pass_tokens": tokens, "pass_executed_flop": float(total_flop(work)),
            "pass_counter_flop": float(total_counter_flop(work)), "pass_moved_bytes_fp16": float(total_bytes(work)),
            "kv_bytes_per_token_fp16": 2 * built.layers * built.layer.kv_width * 2,
        }  # fmt: skip
    facts["weight_bytes"] = {dtype: parameters(model) * width for dtype, width in DTYPE_BYTES.items()}
    if as_json:
        print(json.dumps(facts))
        return 0
    table = Table("", "", title=f"{model.name} ({model.id})", show_header=False)
    for key, value in facts.items():
        shown = value
        if key == "weight_bytes":
            shown = ", ".join(f"{dtype} {text(size, 'bytes')}" for dtype, size in value.items())
        elif isinstance(value, int | float) and value > 9999:
            shown = text(value, "bytes" if "bytes" in key else "FLOP" if "flop" in key else "count")
        table.add_row(key.replace("_", " "), str(shown))
    screen.print(table)
    return 0


def schema(kind: str | None, output: Path | None, *, as_json: bool) -> int:
    """Print one JSON Schema, or write all of them to a folder."""
    if kind is not None and kind not in SCHEMAS:
        raise UnknownNameError("kind", kind, SCHEMAS)
    chosen = {name: _schema(form) for name, form in SCHEMAS.items() if kind in {None, name}}
    if output is not None:
        for name, content in chosen.items():
            files.write_text(output / f"{name}.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        if not as_json:
            screen.print(f"wrote {', '.join(chosen)} to {output}")
            return 0
    print(json.dumps(chosen if kind is None else chosen[kind], indent=None if as_json else 2, ensure_ascii=False))
    return 0


def _schema(form: Any) -> dict[str, Any]:  # noqa: ANN401  (a model class or a type adapter)
    model = isinstance(form, type) and issubclass(form, BaseModel)
    content: dict[str, Any] = form.model_json_schema() if model else form.json_schema()
    return {"$schema": DIALECT, **content}


def dashboard(scenario: str | None, port: int, *, as_json: bool) -> int:
    """Start Streamlit on dashboard.py; with --json only say what would be started."""
    here = Path(__file__).resolve().parent.parent
    candidates = (here / "shipped" / "dashboard.py", here.parent / "dashboard.py")
    page = next((path for path in candidates if path.is_file()), None)
    if page is None or find_spec("streamlit") is None:
        raise CapacityError("dashboard.py or streamlit is missing from this installation")
    if scenario is not None:
        catalogue.scenario(scenario)
    command = [sys.executable, "-m", "streamlit", "run", str(page), "--server.port", str(port)]
    if as_json:
        print(json.dumps({"command": command}))
        return 0
    extra = {"CAPACITY_SCENARIO": scenario} if scenario else {}
    return subprocess.run(command, env={**os.environ, **extra}, check=False).returncode
