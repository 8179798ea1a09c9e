"""Scenarios with a fault are refused at its place; odd ones without get an answer in seconds."""

from __future__ import annotations

import pytest
from bad_input import SCENARIO, broken, infeasible, refused, run, write

PEAK, EMBED = "peak_rate: 30/s", "{name: embed, task: encode, model: minilm-l6,"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)


FAULTS = {
    # what stands for a number
    "a wrong word": ("30/s", "⌖yes", "traffic.peak_rate: 'yes' is not a quantity; write a per second quantity such as"),
    "a list": ("30/s", "⌖[1, 2]", "expected a per second quantity such as 3000/s or 2 M/d, got [1, 2]"),
    "a mapping": ("30/s", "⌖{a: 1}", "expected a per second quantity"),
    "a boolean": ("30/s", "⌖true", "expected a per second quantity such as 3000/s or 2 M/d, got True"),
    "null": ("30/s", "⌖null", "expected a per second quantity"),
    "empty text": ("30/s", "⌖''", "'' is not a quantity; write a per second quantity"),
    "a unit nobody knows": ("30/s", "⌖100 banana", "'100 banana' has no unit of per second; write"),
    "the unit of something else": ("30/s", "⌖80 GB/s", "'80 GB/s' has no unit of per second"),
    "bytes for seconds": ("2 s}", "⌖2 GB}", "'2 GB' has no unit of seconds; write a seconds quantity such as 100 ms"),
    "a hexadecimal number": ("30/s", "⌖0x10", "'0x10' has no unit of per second"),
    "negative": ("30/s", "⌖-30/s", "traffic.peak_rate: input should be greater than 0 (got '-30/s')"),
    "zero": ("30/s", "⌖0", "traffic.peak_rate: input should be greater than 0 (got 0)"),
    "not a number": ("30/s", "⌖.nan", "nan is not a finite number"),
    "infinite": ("30/s", "⌖.inf", "inf is not a finite number"),
    "minus infinite": ("30/s", "⌖-.inf", "-inf is not a finite number"),
    "beyond what floats hold": ("30/s", "⌖1e400", "is not a finite number"),
    "beyond, with a unit": ("30/s", "⌖1e400/s", "'1e400/s' is not a finite number"),
    "400 digits": ("30/s", "⌖1" + "0" * 400, "is not a quantity"),
    "200 digits": ("30/s", "⌖1" + "0" * 200, "input should be less than or equal to 1000000000000"),
    "4 MB of digits": ("30/s", "⌖" + "9" * 3_900_000, "is not a quantity"),
    "half a user": ("users: 1 M", "users: ⌖0.5", "audience.users: input should be"),
    "zero users": ("users: 1 M", "users: ⌖0", "audience.users: input should be greater than or equal to 1 (got 0)"),
    "no mean traffic": ("mean_to_peak: 0.5", "mean_to_peak: ⌖0", "mean_to_peak: input should be greater than 0"),
    "cached more than always": ("hit_rate: 0.5", "hit_rate: ⌖101 %", "input should be less than or equal to 1"),
    "a batch of none": ("max_batch: 4", "max_batch: ⌖0", "serving.max_batch: input should be greater than or equal"),
    "a batch of 10^15": ("max_batch: 4", "max_batch: ⌖1e15", "input should be less than or equal to 1000000"),
    "a negative deadline": ("line: 4 d", "line: ⌖-4 d", "training.0.deadline: input should be greater than 0"),
    "runs all the time": ("every: 30 d", "every: ⌖1e-300", "input should be greater than or equal to 0.000000001"),
    "words for samples": ("1 k,", "⌖all,", "input should be 'catalogue', 'new-items' or 'users'; or 'all' is not a"),
    # keys
    "an unknown key": (PEAK, f"{PEAK}, ⌖peak_rat: 4", "unknown key 'traffic.peak_rat'; did you mean peak_rate"),
    "an unknown key of a stage": ("width: 768", "width: 768, ⌖widht: 7", "serving.stages.0.widht'; did you mean width"),
    "a duplicate key": (PEAK, f"{PEAK}, ⌖peak_rate: 4", "duplicate key 'peak_rate', first on line 6"),
    "a missing id": ("id: shop\ntitle", "⌖title", "missing key 'id'"),
    "a missing rate": (f"{{{PEAK}, ", "⌖{", "missing key 'traffic.peak_rate'"),
    "a missing task": ("{name: rank, task: encode,", "⌖{name: rank,", "missing key 'serving.stages.1.task'"),
    "an override with blanks": ("growth:", "⌖more users:", "overrides.more users: string should match pattern"),
    # words, lists and mappings
    "an unknown task": ("task: retrieve", "task: ⌖retreive", "serving.stages.0.task: 'retreive' is none of 'encode', "),
    "an unknown percentile": ("p99", "⌖p42", "input should be 'p50', 'p90', 'p95' or 'p99' (got 'p42')"),
    "an unknown term": ("on-demand", "⌖weekly", "input should be 'on-demand', 'spot', '1-year', '3-year' or 'pu"),
    "an id with blanks": ("id: shop", "id: ⌖My Shop", "id: string should match pattern"),
    "text for a list": ("[l4]", "⌖l4", "hardware: input should be a list (got 'l4')"),
    "an empty list": ("[l4]", "⌖[]", "hardware: the list should have at least 1 item, not 0"),
    "a number among names": ("[l4]", "[l4, ⌖4]", "hardware.1: input should be text (got 4)"),
    "a number for a mapping": ("{users: 1 M}", "⌖3", "audience: input should be a mapping of `key: value` lines"),
    "a number for an override": ("{traffic: {peak_rate: 60/s}}", "⌖3", "overrides.growth: input should be a mapping"),
    # names of something else
    "unknown hardware": ("[l4]", "[⌖l5]", "hardware.0: unknown hardware profile 'l5'; did you mean l4"),
    "unknown rates": ("term: on-demand", "rates: ⌖rates-us", "pricing.rates: unknown price 'rates-us'; did you mean"),
    "an unknown model": ("bert-large", "⌖bert-larg", "stages.1.model: unknown model profile 'bert-larg'; did you mean"),
    "a model of the wrong family": ("bert-large", "⌖lstm-recommender", "'lstm'; what it is for needs 'transformer'"),
    "a job of the wrong family": ("minilm-l6", "⌖fusion-scorer", "batch.0.model: model fusion-scorer is of family"),
    "a file that is no model": ("bert-large", "./nowhere.yaml", "⌖nowhere.yaml: no such file"),
    # contradictions
    "a text too long for its model": ("pair", "⌖1e15", "stages.1.tokens: model bert-large reads at most 512 tokens"),
    "an encode job without model": (EMBED, "⌖{name: embed, task: encode,", "batch.0: an encode job needs a model"),
    "an index job without width": (EMBED, "⌖{name: embed, task: index,", "an index job needs a model or a width"),
    "two stages of one name": ("- {name: search,", "⌖- {name: rank,", "names must differ, rank stands more than once"),
    "two jobs of one name": (f"- {EMBED}", f"⌖- {EMBED} every: 7 d}}\n  - {EMBED}", "names must differ, embed stands"),
    "a training and a batch job of one name": ("name: embed", "name: tune", "⌖shop.yaml:1:1: names must differ, tune"),
    "devices that cost nothing": (
        "{term: on-demand}", "{ownership: ⌖{residual: 1, interest: 0}}", "binds no interest costs nothing; lower",
    ),
    "a pool of host work": (
        "- {name: search, task: retrieve, width: 768}", "⌖- {name: search, task: host, time: 1 ms, pool: cpu}",
        "serving.stages: pool cpu holds host work only; name a pool whose devices compute",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_refused_at_its_place(old, new, said):
    if "⌖" in said:  # the file it names, not this one, is wrong
        write("shop.yaml", SCENARIO.replace(old, new))
        refused("plan", "./shop.yaml", says=said.replace("⌖", "error: "))
        return
    text, place = broken(SCENARIO, old, new)
    write("shop.yaml", text)
    message = refused("plan", "./shop.yaml", says=said)
    assert message.startswith(f"error: shop.yaml:{place}: ")


def test_all_faults_are_named_at_once():
    text = SCENARIO.replace("30/s", "lots").replace("p99", "p42").replace("users: 1 M", "users: 0")
    message = refused("plan", write("shop.yaml", text), says="'lots' is not a quantity", others=2)
    places = [line.split(": ")[1] for line in message.splitlines()]
    assert places == ["shop.yaml:5:19", "shop.yaml:6:22", "shop.yaml:7:25"]


def test_a_fault_of_an_override_is_refused_where_the_override_stands():
    text, place = broken(SCENARIO, "{peak_rate: 60/s}", "{peak_rate: ⌖60 GB}")
    write("shop.yaml", text)
    assert run("plan", "./shop.yaml").code == 0
    message = refused("plan", "./shop.yaml", "-o", "growth", says="'60 GB' has no unit of per second")
    assert message.startswith(f"error: shop.yaml:{place}: ")


# Valid: what no fleet can do is an answer with exit 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("items: 1 M", "items: 1e15", "memory of one of 8 devices at batch 1"),
        ("30/s", "1e12/s", "fewer than 200,000 replicas"),
        ("latency: 2 s", "latency: 1 ns", "service time of one batch alone"),
        ("samples: 1 k", "batch: 1e15, samples: 1 k", "memory of one device"),
        ("deadline: 4 d", "deadline: 1 ns", "deadline with"),
        ("max_batch: 4", "max_batch: 1", "l4 has no memory_bandwidth"),
    ],
)
def test_what_no_fleet_can_do_is_an_answer(old, new, said):
    assert SCENARIO.count(old) == 1
    bare = "id: l4\nname: Bare\nvendor: Acme\nkind: gpu\nsources: {}\n"  # a device about which nothing is known
    options = ("-H", write("l4.yaml", bare).absolute()) if "l4" in said else ()
    infeasible("plan", write("shop.yaml", SCENARIO.replace(old, new)), *options, says=said)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cache_hit_rate: 0.5", "cache_hit_rate: 100 %"),
        ("30/s", "1e-300"),
        ("every: 30 d", "every: 1e12"),
        ("every: 1 d", "every: 1e12, max_devices: 1e15, batch: 1e15"),
        ("max_batch: 4", "max_batch: 1 M"),
        ("pricing:", "resilience: {service_variation: 1e18}\npricing:"),
        ("pricing:", "people: {engineer_hours_per_month: 1e18}\npricing:"),
    ],
)
def test_extremes_have_an_answer_that_can_be_read(old, new):
    assert SCENARIO.count(old) == 1
    result = run("plan", write("shop.yaml", SCENARIO.replace(old, new)))
    assert result.code in {0, 1}
    assert not result.err
    assert "0" * 16 not in result.out
