"""Hardware, models, calibrations and prices with a fault: refused at its place, whatever command reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input import CALIBRATION, HARDWARE, MODEL, broken, marked, refused, run, write

ROOT = Path(__file__).resolve().parent.parent
PLAN = ("plan", "cross-encoder-rerank", "-H", "t4")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)


# Hardware

BANDWIDTH = "memory_bandwidth: {value: 2 TB/s, source: D}"
HARDWARE_FAULTS = {
    "bytes per second for memory": ("80 GB", "⌖80 GB/s", "memory.value: '80 GB/s' has no unit of bytes; write a bytes"),
    "bytes for a bandwidth": ("2 TB/s", "⌖2 TB", "memory_bandwidth.value: '2 TB' has no unit of bytes/s; write a"),
    "bananas": ("80 GB", "⌖100 banana", "'100 banana' has no unit of bytes; write a bytes quantity such as 80 GB"),
    "negative": ("400 W", "⌖-400 W", "power.value: input should be greater than 0"),
    "zero": ("20 TFLOP/s", "⌖0", "dense_rates.fp32.value: input should be greater than 0 (got 0)"),
    "not a number": ("2 TB/s", "⌖.nan", "nan is not a finite number; write a bytes/s quantity such as 2039 GB/s"),
    "infinite": ("400 W", "⌖.inf", "inf is not a finite number"),
    "huge": ("2 TB/s", "⌖1e300", "input should be less than or equal to 1000000000000000000"),
    "half a core": ("value: 100", "value: ⌖0.5", "cores.value: input should be"),
    "a bare value for a fact": ("{value: 80 GB, source: D}", "⌖80 GB", "memory: input should be a mapping"),
    "a fact without source": ("{value: 80 GB, source: D}", "⌖{value: 80 GB}", "missing key 'memory.source'"),
    "a fact of no source": ("80 GB, source: D", "80 GB, source: ⌖E", "memory.source: cites source 'E', which"),
    "a rate of no source": ("300 TFLOP/s, source: D", "300 TFLOP/s, source: ⌖E", "fp16.source: cites source"),
    "an unknown key": (BANDWIDTH, "⌖memory_bandwdth: 1", "unknown key 'memory_bandwdth'; did you mean memory"),
    "an unknown dtype": ("fp16:", "⌖fp12:", "dense_rates.fp12: input should be 'fp64', 'fp32', 'tf32', 'fp16'"),
    "an unknown kind": ("gpu", "⌖tpu", "kind: input should be 'gpu', 'cpu' or 'accelerator' (got 'tpu')"),
    "a year before chips": ("2024\nsources", "⌖1066\nsources", "year: input should be greater than or equal to 1990"),
    "a date in words": ("2024-05", "⌖last May", "sources.D.date: string should match pattern"),
    "a missing vendor": ("id: box\nname: Box\nvendor: Acme", "⌖id: box\nname: Box", "missing key 'vendor'"),
    "a duplicate key": ("cores:", "⌖memory:", "duplicate key 'memory', first on line 8"),
    "bytes in a nested link": ("300 GB/s}", "⌖300 GB}", "link.value.bandwidth: '300 GB' has no unit of bytes/s"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), HARDWARE_FAULTS.values(), ids=HARDWARE_FAULTS)
def test_faulty_hardware_is_refused_at_the_place_of_its_fault(old, new, said):
    text, place = broken(HARDWARE, old, new)
    write("box.yaml", text)
    for command in (("hardware", "show"), ("hardware", "check"), (*PLAN[:2], "-H")):
        message = refused(*command, "./box.yaml", says=said)
        assert message.startswith(f"error: box.yaml:{place}: ")


def test_a_profile_may_leave_facts_out_and_the_check_names_doubts():
    bare = write("box.yaml", "id: box\nname: Box\nvendor: Acme\nkind: gpu\nsources: {}\n")
    assert run("hardware", "show", bare).code == 0
    assert run("hardware", "check", bare).code == 0
    write("other.yaml", HARDWARE)
    doubtful = run("hardware", "check", "./other.yaml")  # valid: its id only differs from the file's name
    assert (doubtful.code, doubtful.err) == (1, "")
    assert "id 'box' differs from the file's name 'other'" in doubtful.out


def test_a_check_of_several_profiles_names_the_faults_of_all():
    write("one.yaml", HARDWARE.replace("80 GB", "80 GB/s"))
    write("two.yaml", HARDWARE.replace("400 W", "lots"))
    refused("hardware", "check", "./one.yaml", "./two.yaml", "t4", "t99", says="two.yaml:15:16: power.value", others=2)


# Models

MODEL_FAULTS = {
    "an unknown family": ("transformer", "⌖transformr", "unknown family 'transformr'; did you mean transformer?"),
    "a list for a family": ("transformer", "⌖[a]", "unknown family ['a']; known: bert4rec, dlrm, factorization"),
    "a family of other keys": ("transformer", "lstm", "missing key 'items'"),
    "an unknown key": ("head: none", "⌖heads: none", "unknown key 'heads'; did you mean head?"),
    "an unknown head": ("none", "⌖two", "head: input should be 'none', 'language-model', 'classification' or 'pooler'"),
    "a head that BERT has not": ("none", "⌖language-model", "head 'language-model' of model_type 'bert' is not known"),
    "an unknown type": ("bert", "⌖bertt", "unknown model_type 'bertt'; did you mean bert"),
    "text for a size": ("size: 64", "size: ⌖'64'", "'hidden_size' must be a positive whole number, got '64'"),
    "half a layer": ("layers: 2", "layers: ⌖2.5", "config field 'num_hidden_layers' must be a positive whole number"),
    "no heads": ("heads: 4", "heads: ⌖0", "config field 'num_attention_heads' must be a positive whole number, got 0"),
    "heads that do not divide": ("heads: 4", "heads: ⌖5", "hidden_size 64 is not a multiple of num_attention_head"),
    "a huge size": ("256", "⌖1" + "0" * 400, "config field 'intermediate_size' must be a positive whole number"),
    "a missing size": ("model_type: bert\n  hidden_size: 64", "⌖model_type: bert", "field 'hidden_size' must be"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), MODEL_FAULTS.values(), ids=MODEL_FAULTS)
def test_a_faulty_model_is_refused_at_the_place_of_its_fault(old, new, said):
    text, place = broken(MODEL, old, new) if "⌖" in new else (MODEL.replace(old, new), "1:1")
    write("small.yaml", text)
    message = refused("model", "show", "./small.yaml", says=said, others=4 if new == "lstm" else 0)
    assert message.startswith(f"error: small.yaml:{place}: ")


CONFIG = {
    "model_type": "mistral", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 256, "vocab_size": 1000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", None, "unknown model_type 'None'; known: bert"),
        ("model_type", "mamba", "unknown model_type 'mamba'"),
        ("hidden_size", True, "config field 'hidden_size' must be a positive whole number, got True"),
        ("hidden_size", -64, "got -64"),
        ("num_key_value_heads", "8", "got '8'"),
        ("sliding_window", -1, "config field 'sliding_window' must be a positive whole number, got -1"),
        ("architectures", 3, "config field 'architectures' must be a list, got 3"),
    ],
)
def test_a_faulty_config_json_is_refused_at_the_place_of_its_fault(key, value, said):
    text = json.dumps(CONFIG | {key: value}, indent=1)
    line = next(number for number, line in enumerate(text.splitlines(), start=1) if f'"{key}"' in line)
    write("mine/config.json", text)
    message = refused("model", "show", "mine/config.json", says=said)
    assert message.startswith(f"error: mine/config.json:{line}:{len(key) + 6}: ")


def test_a_config_json_may_hold_emoji_and_lie_in_a_folder_of_any_name():
    write("Ünï code/config.json", json.dumps(CONFIG | {"_name_or_path": "fun \N{GRINNING FACE}"}))
    assert run("model", "show", "Ünï code/config.json", "--json").json["name"] == "fun \N{GRINNING FACE}"


# Calibrations

CALIBRATION_FAULTS = {
    "an unknown device": ("hardware: t4", "hardware: ⌖t5", "hardware: unknown hardware profile 't5'; did you mean t4"),
    "an unknown engine": ("engine: fused", "engine: ⌖warp", "'onnxruntime' or 'openvino' (got 'warp')"),
    "a method of tomorrow": ("engine:", "method_version: ⌖99\nengine:", "method_version: input should be 2 (got 99)"),
    "another method": ("engine:", "method: ⌖magic\nengine:", "method: input should be 'forms' (got 'magic')"),
    "a year for a date": ("2026-11-22", "⌖2026", "date: input should be text (got 2026)"),
    "no efficiencies": ("source:", "power: ⌖lots\nsource:", "power: input should be a mapping"),
    "an unknown dtype": ("fp16", "⌖fp12", "efficiencies.0.dtype: input should be 'fp64'"),
    "a negative time": ("5 us", "⌖-5 us", "efficiencies.0.t0: input should be greater than or equal to 0"),
    "bytes for a time": ("5 us", "⌖5 GB", "'5 GB' has no unit of seconds"),
    "an efficiency of zero": ("flop_efficiency: 0.6", "flop_efficiency: ⌖0", "input should be greater than 0 (got 0)"),
    "an infinite efficiency": ("bandwidth_efficiency: 0.7", "bandwidth_efficiency: ⌖1e400", "is not a finite number"),
    "an error that overflows": ("log_sigma: 0.1", "log_sigma: ⌖700", "log_sigma: input should be less than or"),
    "a corner that overflows": ("sharpness: 4", "sharpness: ⌖1e-300", "sharpness: input should be greater than or"),
    "half a row": ("rows: 9", "rows: ⌖9.5", "efficiencies.0.rows: input should be a valid integer"),
    "an unknown key": ("rows: 9", "rows: 9\n    ⌖row: 9", "unknown key 'efficiencies.0.row'; did you mean rows?"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), CALIBRATION_FAULTS.values(), ids=CALIBRATION_FAULTS)
def test_a_faulty_calibration_is_refused_at_the_place_of_its_fault(old, new, said):
    text, place = broken(CALIBRATION, old, new)
    write("mine.yaml", text)
    message = refused(*PLAN, "-c", "./mine.yaml", says=said)
    assert message.startswith(f"error: mine.yaml:{place}: ")


def test_a_valid_calibration_is_used():
    assert run(*PLAN, "-c", write("mine.yaml", CALIBRATION).absolute()).code == 0


# Prices

HEADER = "hardware,provider,sku,devices,region,term,usd_per_device_hour,date,source,quality,note"
ROW = "t4,AWS,g4dn.xlarge,1,us-east-1,on-demand,0.5,2026-05,list,published,"
PRICE_FAULTS = {
    "negative": ("0.5,", "-1,", "2:7: usd_per_device_hour: input should be greater than 0 (got '-1')"),
    "zero": ("0.5,", "0,", "2:7: usd_per_device_hour: input should be greater than 0 (got '0')"),
    "not a number": ("0.5,", "nan,", "2:7: usd_per_device_hour: 'nan' is not a quantity; write a usd/hour"),
    "huge": ("0.5,", "1e400,", "2:7: usd_per_device_hour: '1e400' is not a finite number"),
    "a wrong unit": ("0.5,", "0.5 GB,", "2:7: usd_per_device_hour: '0.5 GB' has no unit of usd/hour"),
    "a blank price": ("0.5,", ",", "2:7: usd_per_device_hour: is blank"),
    "a date in words": ("2026-05", "lately", "2:8: date: string should match pattern"),
    "no such day": ("2026-05", "2026-13", "2:8: date: there is no such day"),
    "an unknown term": ("on-demand", "weekly", "2:6: term: input should be 'on-demand'"),
    "an unknown quality": ("published", "hearsay", "2:10: quality: input should be 'published'"),
    "a field too many": ("published,", "published,,,", "2:13: has 13 fields, expected 11"),
    "an open quote": ("t4,", '"t4,', "2:1: is not a line of CSV"),
    "an unknown column": ("note", "notes", "1:11: unknown column 'notes'; did you mean note?"),
    "a missing column": (",term,", ",note,", "1:12: missing column 'term'"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), PRICE_FAULTS.values(), ids=PRICE_FAULTS)
def test_a_faulty_price_table_is_refused_at_the_place_of_its_fault(old, new, said, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    table = write("prices/devices.csv", f"{HEADER}\n{ROW}\n".replace(old, new, 1)).absolute()
    refused(*PLAN, says=f"error: {table}:{said}", others=1 if said == PRICE_FAULTS["a missing column"][2] else 0)


RATES = (ROOT / "prices" / "rates-us-east.yaml").read_text(encoding="utf-8").split("power_usage")[0]
RATES_FAULTS = {
    "low above the value": ("low: 0.0683", "low: 5", "low ≤ value ≤ high must hold"),
    "a wrong unit": ("value: 0.1301 USD/kWh", "value: ⌖0.1301 USD/GB", "'0.1301 USD/GB' has no unit of usd/kWh"),
    "negative": ("value: 0.1301 USD/kWh", "value: ⌖-0.1 USD/kWh", "electricity.value: input should be greater than"),
    "a misspelled key": ("electricity:", "⌖electricty:", "unknown key 'electricty'; did you mean electricity?"),
}


@pytest.mark.parametrize(("old", "new", "said"), RATES_FAULTS.values(), ids=RATES_FAULTS)
def test_faulty_rates_are_refused_at_the_place_of_their_fault(old, new, said, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    text = (ROOT / "prices" / "rates-us-east.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    text, place = marked(text.replace(old, new))
    path = write("prices/rates-us-east.yaml", text).absolute()
    where = f"{path}:{place}: " if "⌖" in new else f"{path}:5:3: electricity: "
    message = refused(*PLAN, says=said, others=1 if "electricty" in new else 0)
    assert f"error: {where}" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; its first line must name the columns date, source"),
        (b"\xff\xfe\x00", "is not UTF-8 text (byte 0)"),
        (b"x" * 5_000_000, "is larger than 4,000,000 bytes"),
        (HEADER.encode() + b"\n" + b"x" * 200_000, "is not a line of CSV: field larger than field limit"),
    ],
)
def test_what_is_no_price_table_is_refused(content, said, tmp_path, monkeypatch):
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    write("prices/devices.csv", content)
    refused(*PLAN, says=said)


def test_a_mistyped_catalogue_root_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path / "nowhere"))
    refused(*PLAN, says=f"CAPACITY_PATH: {tmp_path}/nowhere is no folder")
    (tmp_path / "prices" / "devices.csv").mkdir(parents=True)
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    refused(*PLAN, says="devices.csv: is a folder; name a file in it")
