"""YAML to documents: values, exact places, every problem at once, overrides and settings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from bad_input import HERE, marked
from hypothesis import example, given
from hypothesis import strategies as st

from capacity import catalogue, documents
from capacity.documents import KEY, Document, addressed, merged, parse, setting, validated
from capacity.errors import InputError, UnknownNameError
from capacity.spec.hardware import Hardware
from capacity.spec.scenario import Scenario, Traffic
from capacity.units import parse as quantity

SCENARIO = """\
id: shop
title: A shop
hardware: [l4]
catalogue: {items: 1 M}
traffic: {peak_rate: 30/s}
objective: {latency: 2 s}
serving:
  stages:
    - {name: search, task: retrieve, width: 768}
    - name: rank
      task: encode
      model: bert-base
      tokens: pair
"""


def problems_of(call, *arguments) -> list[str]:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return [str(problem) for problem in caught.value.problems]


def scenario(text: str) -> Scenario:
    return validated(parse(text, "shop.yaml"), Scenario)


# Values


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("312e12", 312e12), ("3.12E+14", 312e12), ("-1.5", -1.5), (".5", 0.5), ("5.", 5.0), ("1_000", 1000), ("+7", 7),
        ("007", 7), ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        (".inf", math.inf), ("-.INF", -math.inf), ("yes", "yes"), ("no", "no"), ("on", "on"), ("0x10", "0x10"),
        ("1:30", "1:30"), ("2026-11-22", "2026-11-22"), ("3000/s", "3000/s"), ("80 GB", "80 GB"), ("1e400", math.inf),
        ("'312e12'", "312e12"), ('"true"', "true"), ("[1, 'a', null]", [1, "a", None]), ("{a: 2}", {"a": 2}),
        ("|\n  two\n  lines", "two\nlines\n"), (">-\n  one\n  line", "one line"), ("é", "é"), ("nan", "nan"),
    ],
)  # fmt: skip
def test_what_a_scalar_means(written, value):
    found = parse(f"key: {written}\n", "file").data["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number():
    assert math.isnan(parse("key: .nan", "file").data["key"])


def test_a_rate_written_as_number_as_text_and_with_a_unit_is_one_rate():
    text = "id: x\nname: X\nvendor: V\nkind: gpu\nsources: {D: {citation: datasheet, date: '2024'}}\ndense_rates:\n"
    for written in ("312e12", "'312e12'", "312 TFLOP/s", "'312 TFLOP/s'", "312000000000000"):
        found = validated(parse(f"{text}  fp16: {{value: {written}, source: D}}\n", "x.yaml"), Hardware)
        assert found.rate("fp16") == 312e12


def test_quoted_numbers_stay_text_and_are_read_as_quantities():
    document = parse("peak_rate: '30'\nmean_to_peak: '50 %'\n", "file")
    assert document.data == {"peak_rate": "30", "mean_to_peak": "50 %"}
    assert validated(document, Traffic) == Traffic(peak_rate=30, mean_to_peak=0.5)
    assert problems_of(validated, parse("id: 3\n", "f"), Scenario)[-1] == "f:1:5: id: input should be text (got 3)"


def test_a_boolean_is_no_number():
    said = problems_of(validated, parse("peak_rate: true\n", "file"), Traffic)
    assert said == ["file:1:12: peak_rate: expected a per second quantity such as 3000/s or 2 M/d, got True"]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(data=st.dictionaries(st.sampled_from("abcdef"), values, max_size=4), indent=st.sampled_from([None, 2, "\t"]))
@example(data={"a": "\\\U00010000"}, indent=None)  # an escaped backslash before a pair of escapes
def test_json_says_what_the_json_module_says(data, indent):
    for ascii_only in (True, False):
        assert parse(json.dumps(data, indent=indent, ensure_ascii=ascii_only), "x.json").data == data


# Places


def test_every_value_and_key_has_its_place():
    text = "a: 1\nnested:\n  list:\n    - x\n    - {name: y, deep: [p, q]}\nlast:   'z'\n"
    document = parse(text, "f.yaml")
    expected = {
        (): (1, 1), ("a", KEY): (1, 1), ("a",): (1, 4), ("nested", KEY): (2, 1), ("nested",): (3, 3),
        ("nested", "list", KEY): (3, 3), ("nested", "list"): (4, 5), ("nested", "list", 0): (4, 7),
        ("nested", "list", 1): (5, 7), ("nested", "list", 1, "name", KEY): (5, 8),
        ("nested", "list", 1, "name"): (5, 14),
        ("nested", "list", 1, "deep", KEY): (5, 17), ("nested", "list", 1, "deep"): (5, 23),
        ("nested", "list", 1, "deep", 0): (5, 24), ("nested", "list", 1, "deep", 1): (5, 27),
        ("last", KEY): (6, 1), ("last",): (6, 9),
    }  # fmt: skip
    assert document.places == {location: ("f.yaml", *place) for location, place in expected.items()}


def test_where_falls_back_to_the_nearest_parent_and_at_last_to_the_name():
    document = parse("a: {b: 1}\n", "f.yaml")
    assert document.where(("a", "b", "c", 3)) == "f.yaml:1:8"
    assert document.where(("a", "z")) == "f.yaml:1:4"
    assert document.where(("z", KEY)) == "f.yaml:1:1"
    assert Document("upload", {}).where(("a",)) == "upload"


def test_places_count_characters_not_bytes():
    document = parse("ünï: [é, ✓]\n", "f.yaml")
    assert document.where(("ünï", 1)) == "f.yaml:1:10"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n⌖a: 2\n", "duplicate key 'a', first on line 1"),
        ("x:\n  - {b: 1, c: 2, ⌖b: 3}\n", "duplicate key 'b', first on line 2"),
        ("a: b⌖: c\n", "not well-formed YAML: mapping values are not allowed in this context"),
        ("a: 'b'\nc: ⌖*d\n", "not well-formed YAML: found undefined alias"),
    ],
)
def test_a_text_that_cannot_be_read_says_where(text, said):
    text, place = marked(text)
    assert problems_of(parse, text, "f.yaml") == [f"f.yaml:{place}: {said}"]


def test_all_duplicate_keys_are_named_at_once():
    assert problems_of(parse, "a: 1\nb: {c: 1, c: 2}\na: 2\n", "f") == [
        "f:2:11: duplicate key 'c', first on line 2",
        "f:3:1: duplicate key 'a', first on line 1",
    ]


# Problems


def test_every_problem_is_named_at_once_in_the_order_of_the_text():
    text = SCENARIO.replace("30/s", "lots").replace("title:", "titel:").replace("768", "wide").replace("pair", "-3")
    assert problems_of(scenario, text) == [
        "shop.yaml:1:1: missing key 'title'",
        "shop.yaml:2:1: unknown key 'titel'; did you mean title?",
        "shop.yaml:5:22: traffic.peak_rate: 'lots' is not a quantity; write a per second quantity such as 3000/s or "
        "2 M/d",
        "shop.yaml:9:45: serving.stages.0.width: 'wide' is not a quantity; write a count quantity such as 10 M",
        "shop.yaml:13:15: serving.stages.1.tokens: input should be 'item', 'query' or 'pair'; or input should be "
        "greater than or equal to 1 (got -3)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("hardware:", "⌖hardwear:", "unknown key 'hardwear'; did you mean hardware?"),
        ("items:", "⌖item:", "unknown key 'catalogue.item'; did you mean item"),
        (
            "width: 768",
            "width: 768, ⌖zzz: 1",
            "unknown key 'serving.stages.0.zzz'; known: after, cache, ",
        ),
        ("tokens:", "⌖prompt_tokens:", "unknown key 'serving.stages.1.prompt_tokens'; did you mean tokens"),
    ],
)
def test_an_unknown_key_is_pointed_at_and_the_known_ones_of_its_level_are_offered(old, new, said):
    text, place = marked(SCENARIO.replace(old, new))
    assert HERE not in text
    assert any(line.startswith(f"shop.yaml:{place}: {said}") for line in problems_of(scenario, text))


def test_keys_of_other_stages_are_not_offered():
    lines = problems_of(scenario, SCENARIO.replace("width: 768", "width: 768, candidatez: 5"))
    assert "candidates" not in lines[0]


def test_one_wrong_value_of_a_union_is_one_problem():
    lines = problems_of(scenario, SCENARIO.replace("tokens: pair", "tokens: all"))
    assert lines == [
        "shop.yaml:13:15: serving.stages.1.tokens: input should be 'item', 'query' or 'pair'; or 'all' is not a "
        "quantity; write a count quantity such as 10 M"
    ]


# Aliases


def test_aliases_are_allowed_when_they_stay_small():
    document = parse("one: &one {a: [1, 2]}\ntwo: *one\nthree: [*one, *one]\n", "f")
    assert document.data["three"] == [{"a": [1, 2]}, {"a": [1, 2]}]
    assert document.where(("two", "a", 1)) == "f:1:19"  # an alias stands where its anchor does


def test_an_alias_that_holds_itself_is_refused():
    for text in ("a: &a [*a]", "a: &a {b: *a}", "a: &a {b: {c: [*a]}}"):
        (said,) = problems_of(parse, text, "f")
        assert said.startswith("f:1:")
        assert said.endswith(": expands to more than 40 levels through aliases")


# Overrides and settings

BASE = (
    "serving:\n  max_batch: 4\n  stages:\n  - {name: a, dtype: fp16}\n  - {name: b, dtype: fp16}\nhardware: [t4, l4]\n"
)


def test_merged_lists_meet_by_name_mappings_by_key_and_all_else_is_replaced():
    base = parse(BASE, "base")
    over = parse(
        "serving: {stages: [{name: b, dtype: int8}, {name: c, dtype: fp8}]}\nhardware: [a10]\nnew: 1\n", "over"
    )
    found = merged(base, over)
    assert found.data == {
        "serving": {
            "max_batch": 4,
            "stages": [
                {"name": "a", "dtype": "fp16"}, {"name": "b", "dtype": "int8"}, {"name": "c", "dtype": "fp8"},
            ],
        },
        "hardware": ["a10"],
        "new": 1,
    }  # fmt: skip
    assert base.data == parse(BASE, "base").data  # the base is as it was


def test_merged_places_point_into_the_document_that_says_the_value():
    found = merged(
        parse(BASE, "base"), parse("serving:\n  stages: [{name: b, dtype: int8}]\nhardware: [a10]\n", "over")
    )
    assert found.where(("serving", "max_batch")) == "base:2:14"
    assert found.where(("serving", "stages", 0, "dtype")) == "base:4:22"
    assert found.where(("serving", "stages", 1, "dtype")) == "over:2:29"
    assert found.where(("hardware", 0)) == "over:3:12"
    assert found.where(("hardware", 1)) == "over:3:11"  # gone with the base's list


def test_addressed_turns_names_and_indices_into_named_entries_and_keeps_their_places():
    base = parse(BASE, "base")
    over = parse("serving:\n  stages:\n    b: {dtype: int8}\n    0:\n      dtype: fp8\n", "over")
    found = addressed(over, base)
    assert found.data == {"serving": {"stages": [{"name": "b", "dtype": "int8"}, {"name": "a", "dtype": "fp8"}]}}
    both = merged(base, found)
    assert [stage["dtype"] for stage in both.data["serving"]["stages"]] == ["fp8", "int8"]
    assert both.where(("serving", "stages", 1, "dtype")) == "over:3:16"
    assert both.where(("serving", "stages", 0, "dtype")) == "over:5:14"
    assert both.where(("serving", "stages", 0, "dtype", KEY)) == "over:5:7"


def test_addressed_says_nothing_when_nothing_is_addressed():
    base = parse(BASE, "base")
    assert merged(base, addressed(parse("serving: {stages: {}}\n", "over"), base)).data == base.data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("serving:\n  stages: {⌖z: {dtype: int8}}\n", "no entry 'z'; known: a, b"),
        ("serving:\n  stages: {⌖2: {dtype: int8}}\n", "no entry '2'; known: a, b"),
        ("serving:\n  stages: {a: ⌖int8}\n", "a: expected a mapping of `key: value` lines"),
        ("hardware: ⌖{t4: l4}\n", "the entries have no names; write the whole list: [a, b]"),
    ],
)
def test_addressed_refuses_what_addresses_nothing(text, said):
    text, place = marked(text)
    assert problems_of(addressed, parse(text, "over"), parse(BASE, "base")) == [f"over:{place}: {said}"]


@pytest.mark.parametrize(
    ("assignment", "data"),
    [
        ("a=1", {"a": 1}),
        (" a.b = 3000/s ", {"a": {"b": "3000/s"}}),
        ("a.b.c=[x, {y: 2}]", {"a": {"b": {"c": ["x", {"y": 2}]}}}),
        ("title=two words", {"title": "two words"}),
        ("url=http://x?a=b", {"url": "http://x?a=b"}),
        ("a=", {"a": None}),
        ("a='1'", {"a": "1"}),
    ],
)
def test_a_setting_is_an_override_of_one_path(assignment, data):
    found = setting(assignment)
    assert found.data == data
    assert found.where(("a", "b", "c", 0)) == f"--set {assignment.partition('=')[0].strip()}"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("a", "--set a: write it as path.to.key=value"),
        ("=1", "--set =1: write it as path.to.key=value"),
        ("a..b=1", "--set a..b=1: write it as path.to.key=value"),
        ("a=[1", "--set a: not well-formed YAML: did not find expected ',' or ']'"),
        ("a=b: c", "--set a: not well-formed YAML: mapping values are not allowed in this context"),
        ("a=1\nb: 2", "--set a: write one value on one line"),
        ("a={b: 1, b: 2}", "--set a: duplicate key 'b', first on line 1"),
    ],
)
def test_a_setting_that_cannot_be_read_says_which(assignment, said):
    assert problems_of(setting, assignment) == [said]


def test_problems_of_overrides_and_settings_point_to_whoever_said_it():
    own = "overrides:\n  fast:\n    serving:\n      stages:\n        rank:\n          dtype: fp12\n"
    base = parse(SCENARIO + own, "shop.yaml")
    found = catalogue.scenario_document(base, ["fast"], ["traffic.peak_rate=80 GB", "objective.percentil=p99"])
    lines = problems_of(validated, found, Scenario)
    starts = [
        "--set traffic.peak_rate: ",
        "--set objective.percentil: unknown key",
        "shop.yaml:19:18: serving.stages.1.dtype",
    ]
    assert len(lines) == 3
    assert all(any(line.startswith(start) for line in lines) for start in starts), lines


def test_problems_of_a_domain_point_into_its_file(tmp_path, monkeypatch):
    folder = tmp_path / "scenarios" / "domains"
    folder.mkdir(parents=True)
    path = folder / "zoo.yaml"
    path.write_text("id: zoo\ntitle: Zoo\nassumptions: [none]\noverride:\n  traffic: {peak_rate: lots}\n")
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    found = catalogue.scenario_document(parse(SCENARIO, "shop.yaml"), ["zoo"])
    assert problems_of(validated, found, Scenario)[0].startswith(f"{path}:5:24: traffic.peak_rate: 'lots'")


# Files and the catalogue


def test_read_takes_yaml_and_json_with_or_without_a_byte_order_mark(tmp_path):
    for name, text in {"a.yaml": "a: 1\n", "b.json": '{"a": 1}', "c.yaml": "\ufeffa: 1\n"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        found = documents.read(tmp_path / name)
        assert found.data == {"a": 1}
        assert found.where(("a",)) == f"{tmp_path / name}:1:{7 if 'json' in name else 4}"


def test_the_first_folder_that_has_a_document_wins(tmp_path, monkeypatch):
    (tmp_path / "hardware_profiles").mkdir()
    mine = tmp_path / "hardware_profiles" / "t4.yaml"
    mine.write_text("id: t4\nname: Mine\nvendor: V\nkind: gpu\nsources: {}\n")
    assert catalogue.hardware("t4").name == "T4"
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    assert documents.find("hardware_profiles", "t4") == mine
    assert catalogue.hardware("t4").name == "Mine"
    assert catalogue.hardware("l4").name == "L4"


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown scenario 'cross-encoder'; did you mean cross-encoder-rerank"):
        documents.find("scenarios", "cross-encoder")
    assert documents.find("scenarios", "./cross-encoder.yaml") == Path("cross-encoder.yaml")


def test_a_place_is_where_an_editor_finds_the_value():
    path = documents.find("scenarios", "cross-encoder-rerank")
    document = documents.read(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for location in (("traffic", "peak_rate"), ("serving", "stages", 1, "model"), ("training", 0, "every")):
        _, line, column = document.places[location]
        value = document.data
        for part in location:
            value = value[part]
        assert lines[int(line) - 1][int(column) - 1 :].startswith(str(value))
    assert quantity(document.data["traffic"]["peak_rate"], "per second") > 0
