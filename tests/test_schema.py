"""The JSON Schemas that editors use: valid, current, true of every shipped file, and false of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from bad_input import CALIBRATION, HARDWARE, MODEL, SCENARIO
from command_line import capacity

from capacity import documents
from capacity.commands.looking import SCHEMAS
from capacity.spec.quantity import STARTS_WITH_A_NUMBER
from capacity.units import EXAMPLES

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "docs" / "reference" / "schemas"
FOLDERS = {
    "hardware_profiles": "hardware",
    "hardware_profiles/calibrations": "calibration",
    "model_profiles": "model",
    "scenarios": "scenario",
    "scenarios/domains": "domain",
    "prices": "rates",
}
SHIPPED = {
    path: "shared" if path.stem == "shared" else kind
    for folder, kind in FOLDERS.items()
    for path in sorted((ROOT / folder).glob("*.yaml"))
}


@pytest.fixture(scope="module")
def schemas(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("schemas")
    assert capacity("schema", "--output", folder).code == 0
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}


def faults(data: object, schema: dict) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(data)]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_a_valid_schema_that_says_which_dialect(schemas, kind):
    jsonschema.Draft202012Validator.check_schema(schemas[kind])
    assert schemas[kind]["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


def test_the_stored_schemas_are_current(schemas):
    stored = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in STORED.glob("*.json")}
    assert stored == schemas, "run `make schemas`"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_file_is_what_its_schema_says_and_names_it(schemas, path):
    assert faults(documents.read(path).data, schemas[SHIPPED[path]]) == []
    first = path.read_text(encoding="utf-8").splitlines()[0]
    named = path.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert named.resolve() == STORED / f"{SHIPPED[path]}.json"
    assert named.is_file()


def test_every_folder_ships_something():
    kinds = set(SHIPPED.values())
    of_tables = {"device-price", "purchase-price", "api-price"}  # CSV
    assert kinds == set(SCHEMAS) - of_tables - {"outlook", "space"}  # files of a user


@pytest.mark.parametrize(
    ("kind", "text"),
    [("scenario", SCENARIO), ("hardware", HARDWARE), ("model", MODEL), ("calibration", CALIBRATION)],
)
def test_quantities_may_be_numbers_or_text(schemas, kind, text):
    assert faults(documents.parse(text, kind).data, schemas[kind]) == []


def test_shorthand_of_a_scenario_is_allowed(schemas):
    short = SCENARIO.replace("peak_rate: 30/s", "peak_rate: 30").replace("latency: 2 s", "latency: 2e0")
    short = short.replace("1 M}\naudience", "1_000_000}\naudience").replace("hit_rate: 0.5", "hit_rate: 50 %")
    assert faults(documents.parse(short, "short").data, schemas["scenario"]) == []


@pytest.mark.parametrize(
    ("kind", "text", "old", "new"),
    [
        ("scenario", SCENARIO, "peak_rate: 30/s", "peak_rate: lots"),
        ("scenario", SCENARIO, "peak_rate: 30/s", "peak_rate: true"),
        ("scenario", SCENARIO, "peak_rate: 30/s", "peak_rate: 0"),
        ("scenario", SCENARIO, "peak_rate: 30/s", "peak_rat: 30/s"),
        ("scenario", SCENARIO, "p99", "p42"),
        ("scenario", SCENARIO, "id: shop\n", ""),
        ("scenario", SCENARIO, "task: retrieve", "task: retreive"),
        ("scenario", SCENARIO, "hardware: [l4]", "hardware: l4"),
        ("scenario", SCENARIO, "hardware: [l4]", "hardware: []"),
        ("scenario", SCENARIO, "id: shop", "id: My Shop"),
        ("hardware", HARDWARE, "{value: 80 GB, source: D}", "80 GB"),
        ("hardware", HARDWARE, "kind: gpu", "kind: tpu"),
        ("hardware", HARDWARE, "fp16:", "fp12:"),
        ("hardware", HARDWARE, "2024-05", "May"),
        ("model", MODEL, "family: transformer", "family: lstm"),
        ("model", MODEL, "config:", "configs:"),
        ("calibration", CALIBRATION, "engine: fused", "engine: warp"),
        ("calibration", CALIBRATION, "log_sigma: 0.1", "log_sigma: 700"),
        ("calibration", CALIBRATION, "engine: fused", "engine: fused\nmethod_version: 99"),
    ],
)
def test_a_wrong_file_is_not_what_its_schema_says(schemas, kind, text, old, new):
    assert text.count(old) == 1
    assert faults(documents.parse(text.replace(old, new), kind).data, schemas[kind])


def test_a_price_row_has_a_schema_too(schemas):
    row = {
        "hardware": "t4", "provider": "AWS", "sku": "g4dn.xlarge", "devices": 1, "region": "us-east-1",
        "term": "on-demand", "usd_per_device_hour": "0.5 USD/h", "date": "2026-05", "source": "list",
        "quality": "published",
    }  # fmt: skip
    assert faults(row, schemas["device-price"]) == []
    assert faults(row | {"quality": "hearsay"}, schemas["device-price"])


def test_the_examples_of_quantities_match_their_own_pattern():
    validator = jsonschema.Draft202012Validator({"type": "string", "pattern": STARTS_WITH_A_NUMBER})
    for examples in EXAMPLES.values():
        assert all(validator.is_valid(example) for example in (*examples.split(" or "), " $25,000", "-.5"))
    assert not any(validator.is_valid(word) for word in ("lots", "", "GB", "/", "nan", "inf"))
