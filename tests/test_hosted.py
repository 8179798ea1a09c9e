"""Hosted API prices: what ships is sound, a month worked out by hand, and where devices of one's own become cheaper."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import pytest
from command_line import capacity
from hypothesis import given
from hypothesis import strategies as st

from capacity import catalogue, documents, hosting, planner
from capacity.errors import InputError, UnknownNameError
from capacity.money import tables
from capacity.money.break_even import LOADS, break_even, own_usd
from capacity.money.hosted import Need, nearest, needs, parts, search_units
from capacity.money.price_tables import device_prices
from capacity.report import hosted as report
from capacity.spec.apis import ApiPrice

TODAY = date(2026, 11, 22)
PRICES = tables.rows(hosting.FOLDER, ApiPrice)
HEADER = "provider,model,model_profile,what,unit,usd,date,source,quality,note"
GOOD = "Mine,my-rerank,,rerank,1M tokens,0.5,2026-10,contract,published,"


def price(what: str, usd: float, **more: str) -> ApiPrice:
    usual = {"provider": "Acme", "model": "m", "date": "2026-11", "source": "list", "quality": "published"}
    return ApiPrice.model_validate({"what": what, "usd": usd} | usual | more)


def usd(need: Need, *prices: ApiPrice) -> float | None:
    (part,) = parts([need], prices, TODAY)
    return part.usd("median")


LLM = Need(name="write", task="generate", model="qwen3-8b", kind="llm", read=3e6, cached=1e6, written=0.5e6)
TEXTS = Need(name="embed", task="encode", model="bert-base", kind="text-embedding", read=2e6)
PAIRS = Need(name="rerank", task="encode", model="bge-reranker-v2-m3", kind="rerank", read=10e6, searches=4000)
IN, OUT = price("llm-input", 2.0), price("llm-output", 8.0)


# What ships


def test_every_shipped_price_has_a_day_a_source_and_no_double():
    assert len(PRICES) >= 80
    assert all(row.source and row.day <= TODAY for row in PRICES)
    keys = [(row.provider, row.model, row.what, row.unit) for row in PRICES]
    assert len(set(keys)) == len(keys)
    assert {row.what for row in PRICES} >= {"text-embedding", "rerank", "llm-input", "llm-cached-input", "llm-output"}


def test_every_profile_that_a_price_names_exists_and_no_table_of_devices_grew():
    named = {row.model_profile for row in PRICES if row.model_profile}
    assert len(named) >= 12
    assert named <= documents.catalogue("model_profiles").keys()
    assert not any(row.provider in {"Cohere", "OpenAI"} for row in device_prices())


def test_every_shipped_llm_can_be_bought_whole_and_cached_input_is_never_dearer():
    for model in {(row.provider, row.model) for row in PRICES if row.what.startswith("llm")}:
        found = {row.what: row.usd for row in PRICES if (row.provider, row.model) == model}
        assert {"llm-input", "llm-output"} <= found.keys()
        assert found.get("llm-cached-input", 0) <= found["llm-input"]


# A month by hand


def test_an_llm_costs_its_tokens_in_and_out():
    assert usd(LLM, IN, OUT) == pytest.approx(2 * 3 + 8 * 0.5)


def test_cached_input_has_its_price_where_the_seller_has_one():
    assert usd(LLM, IN, OUT, price("llm-cached-input", 0.2)) == pytest.approx(2 * 2 + 0.2 * 1 + 8 * 0.5)


def test_an_llm_without_a_price_of_its_output_is_no_offer():
    assert usd(LLM, IN) is None


def test_embedding_tokens_searches_and_rerank_tokens():
    assert usd(TEXTS, price("text-embedding", 0.1)) == pytest.approx(0.2)
    assert usd(PAIRS, price("rerank", 2.0, unit="1k searches")) == pytest.approx(8)
    assert usd(PAIRS, price("rerank", 0.05)) == pytest.approx(0.5)
    assert usd(TEXTS, price("rerank", 0.05), IN, OUT) is None


@pytest.mark.parametrize(
    ("documents_", "tokens", "units"), [(1, 10, 1), (100, 510, 1), (101, 510, 2), (100, 511, 2), (60, 1000, 2)]
)
def test_a_search_holds_100_documents_and_long_ones_count_by_pieces(documents_, tokens, units):
    assert search_units(documents_, tokens) == units


def test_the_newest_price_of_one_offer_counts():
    older = price("text-embedding", 9.0, date="2026-01")
    assert usd(TEXTS, older, price("text-embedding", 1.0), older) == pytest.approx(2)


def test_range_and_relation_take_the_same_model_before_all_others():
    same = [price("rerank", value, model_profile=PAIRS.model, provider=f"S{value}") for value in (1.0, 2.0, 6.0)]
    (part,) = parts([PAIRS], [price("rerank", 0.01), *same], TODAY)
    assert [offer.relation for offer in part.offers] == ["same model"] * 3 + ["another model"]
    assert [part.usd(end) for end in hosting.ENDS] == pytest.approx([10, 20, 60])


def test_a_stand_in_counts_only_where_nothing_else_does():
    mine = price("rerank", 1.0, quality="assumed", provider="Guess")
    assert usd(PAIRS, mine) == pytest.approx(10)
    assert usd(PAIRS, mine, price("rerank", 3.0)) == pytest.approx(30)


def test_a_chosen_model_is_priced_and_an_unknown_one_refused():
    offers = [price("rerank", 1.0, model_profile=PAIRS.model), price("rerank", 5.0, model="Big One")]
    (part,) = parts([PAIRS], offers, TODAY, ["big one"])
    assert part.usd("low") == pytest.approx(50)
    with pytest.raises(UnknownNameError, match="did you mean Big One"):
        parts([PAIRS], offers, TODAY, ["big"])


def test_the_nearest_name_is_of_the_family_and_like_in_size():
    known = {row.model_profile for row in PRICES if row.what == "llm-input" and row.model_profile}
    assert nearest("qwen3-0.6b", known) == "qwen3-8b"
    assert nearest("llama-3.2-3b", known) == "llama-3.1-8b"
    assert nearest("mistral-nemo", known) == "mistral-7b"
    assert nearest("semantic-id-1b", known) is None


def test_an_old_price_says_so():
    (part,) = parts([TEXTS], [price("text-embedding", 1.0, date="2025-11-21")], TODAY)
    assert part.offers[0].flags == ("older than a year",)


# What a scenario needs


def of(name: str, *settings: str, overrides: tuple[str, ...] = ()) -> dict[str, Need]:
    found = catalogue.scenario(name, overrides, settings)
    return {need.name: need for need in needs(found, planner.inputs(found, today=TODAY).models)}


def test_the_stages_of_a_cascade_are_sold_or_say_why_not():
    found = of("cascade")
    kinds = {name: need.kind for name, need in found.items() if need.kind}
    assert kinds == {
        "encode-query": "text-embedding", "rerank": "rerank", "write-copy": "llm", "encode-new-items": "text-embedding",
    }  # fmt: skip
    assert all(need.refused for need in found.values() if need.kind is None)
    assert found["rank"].refused == "a model over your own ids: nobody sells it"
    assert found["encode-new-items"].read == pytest.approx(200e3 * 128 * 730 / 24)


def test_a_tower_of_ids_and_features_is_no_text_that_somebody_embeds():
    found = of("two-tower-retrieval")["encode-items"]
    assert (found.kind, found.refused) == (None, "a model over your own ids: nobody sells it")


def test_a_request_of_23_pairs_is_one_search_and_all_its_tokens():
    requests = 37.5 * 0.5 * 730 * 3600
    found = of("cross-encoder-rerank")["rerank"]
    assert found.searches == pytest.approx(requests)
    assert found.read == pytest.approx(requests * 23 * 512)


def test_short_shared_starts_are_not_cached_and_beams_are_not_sold():
    assert of("cascade")["write-copy"].cached == 0
    stage = "serving.stages.write-copy"
    long = of("cascade", f"{stage}.prompt_tokens=4000", f"{stage}.prefix_tokens=2000")["write-copy"]
    assert long.cached == pytest.approx(long.read / 2)
    assert of("semantic-id-generator")["generate"].refused == "nobody sells a search by beams"


# Break-even


@pytest.mark.parametrize("price_each", [0.5, 3.0, 20.0])
def test_one_device_breaks_even_where_the_api_costs_as_much(price_each):
    found = break_even(lambda load: 100.0, lambda load: price_each * load, LOADS)
    assert 100 / price_each <= found <= 100 / price_each * 4 ** (1 / 32) * (1 + 1e-9)


def test_of_a_staircase_the_last_crossing_counts():
    def stairs(load: float) -> float:
        return 10.0 if load < 1 else 90.0

    # the API costs 20 × load: cheaper than 10 below 0.5, dearer up to 1, cheaper than 90 up to 4.5
    assert 4.5 <= break_even(stairs, lambda load: 20 * load, LOADS) < 4.5 * 1.05


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4), st.floats(1.1, 50))
def test_dearer_apis_never_break_even_later(fixed, each, times):
    def crossing(usd_each: float) -> float:
        return break_even(lambda load: fixed, lambda load: usd_each * load, LOADS)

    assert crossing(each * times) <= crossing(each)


def test_shares_of_the_devices_add_up_to_their_lines():
    scenario = catalogue.scenario("cascade")
    option = planner.plan(scenario, planner.inputs(scenario, today=TODAY), ["l40s"]).options[0]
    lines = sum(line.usd for line in option.cost.lines if line.group == "devices")
    rented = [job for job in option.jobs if job.name in own_usd(option)]
    assert len(rented) == len(option.jobs)
    assert sum(own_usd(option).values()) == pytest.approx(lines)


def compared(name: str, *settings: str, chosen: tuple[str, ...] = (), hardware: str = "l4") -> hosting.Comparison:
    scenario = catalogue.scenario(name, settings=settings)
    return hosting.compare(scenario, planner.inputs(scenario, today=TODAY), [hardware], settings, chosen)


def test_devices_are_dearer_below_the_break_even_and_cheaper_above():
    scenario = catalogue.scenario("cross-encoder-rerank")
    inputs = planner.inputs(scenario, today=TODAY)
    bench = hosting.Bench(scenario, inputs, "l4", (), PRICES)
    crossing = bench.break_even("median").load
    assert 0 < crossing < math.inf

    def bought(load: float) -> float:
        return sum(part.usd("median") or 0 for part in bench.sold(load))

    assert bench.own_usd(crossing) <= bought(crossing)
    assert bench.own_usd(crossing / 1.06) > bought(crossing / 1.06)
    assert all(bench.own_usd(load) <= bought(load) for load in LOADS if load > crossing)


def test_a_device_that_cannot_serve_says_why_and_the_api_still_has_its_price():
    found = compared("cross-encoder-rerank", "objective.latency=1ms")
    assert found.options[0].refused
    assert "would cost" in report.answer(found)
    assert "cannot be compared" in report.answer(found)
    assert report.to_dict(found)["options"][0]["own_usd"] is None


def test_nothing_to_buy_is_an_answer():
    said = report.answer(compared("bert-id-ranker"))
    assert "nothing in this pipeline is sold" in said


def test_a_stand_in_is_never_silent():
    said = "\n".join(report.caveats(compared("cascade", hardware="l40s")))
    assert "qwen3-1.7b is in no table; priced as the nearest name: Fireworks Qwen/Qwen3-8B" in said
    assert "bert-base is in no table; priced as other models: " in said
    assert "retrieve is not sold" in said


# The command


def test_the_command_says_the_same_in_words_and_json():
    asked = ("hosted", "cross-encoder-rerank", "-H", "l4", "--today", "2026-11-22")
    told = capacity(*asked, "--json").json
    assert told["answer"] in capacity(*asked).out.replace("\n", " ").replace("  ", " ")
    (option,) = told["options"]
    assert option["bought_median_usd"] == pytest.approx(option["requests_per_month"] * 23 * 512 / 1e6 * 0.01)
    assert [item["prices"] for item in option["break_even"] if item["part"] is None] == list(hosting.ENDS)
    unsold, row = option["parts"]
    assert (unsold["name"], unsold["own_usd"], unsold["own_usd_reason"]) == ("tokenize", None, "not sold")
    whole = next(item for item in option["break_even"] if (item["part"], item["prices"]) == (None, "median"))
    assert row["break_even_requests"] == pytest.approx(whole["requests_per_month"])
    assert len(option["offers"]) >= 5
    assert all(offer["source"] and offer["date"] for offer in option["offers"])
    assert json.loads(json.dumps(told, allow_nan=False)) == told


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("-s", "objective.latency=1ms"), 1, "cannot be compared"),
        (("-b", "gpt-99"), 2, "unknown hosted model 'gpt-99'"),
        (("-H", "l5"), 2, "unknown hardware profile 'l5'"),
    ],
)
def test_exit_codes(more, code, said):
    result = capacity("hosted", "cross-encoder-rerank", "--today", "2026-11-22", *more)
    assert result.code == code
    assert said in result.out + result.err


# Tables of one's own


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a table of hosted prices into a catalogue of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    folder = tmp_path / "prices" / "apis"
    folder.mkdir(parents=True)

    def write(text: str, name: str = "apis.csv") -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


def test_a_table_of_ones_own_adds_rows_and_the_same_name_replaces(table):
    table(f"{HEADER}\n{GOOD}\n", "mine.csv")
    assert len(tables.rows(hosting.FOLDER, ApiPrice)) == len(PRICES) + 1
    table(f"{HEADER}\n{GOOD}\n\n")
    assert [row.provider for row in tables.rows(hosting.FOLDER, ApiPrice)] == ["Mine", "Mine"]


FAULTS = {
    "a price of zero": ("0.5", "0", "2:6: usd: input should be greater than 0"),
    "a unit of something else": ("0.5", "0.5 W", "2:6: usd: '0.5 W' has no unit of usd"),
    "a blank price": (",0.5,", ",,", "2:6: usd: is blank"),
    "no such thing": ("rerank,1M", "rerunk,1M", "2:4: what: input should be 'text-embedding'"),
    "no such day": ("2026-10", "2026-13", "2:7: date: there is no such day"),
    "embeddings by searches": (",rerank,1M tokens", ",text-embedding,1k searches", "2:1: only rerank is sold by"),
    "a field too few": (",published,", ",published", "2:9: has 9 fields, expected 10"),
    "an open quote": ("Mine", '"Mine', "2:1: is not a line of CSV"),
    "an unknown column": ("usd,", "usdd,", "1:6: unknown column 'usdd'; did you mean usd?"),
    "a column twice": ("note", "usd", "1:10: duplicate column 'usd'"),
    "nothing": (f"{HEADER}\n{GOOD}\n", "", " is empty; its first line must name the columns date, source"),
}


@pytest.mark.parametrize(("old", "new", "said"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_table_is_refused_at_the_place_of_its_fault(old, new, said, table):
    path = table(f"{HEADER}\n{GOOD}\n".replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        tables.rows(hosting.FOLDER, ApiPrice)
    assert f"{path}:{said}" in str(caught.value)
    result = capacity("hosted", "bert-id-ranker")
    assert (result.code, result.out) == (2, "")
    assert f"error: {path}:{said}" in result.err


def test_all_faults_of_all_tables_are_told_at_once(table):
    bad = GOOD.replace("0.5", "-1").replace("published", "hearsay")
    table(f"{HEADER}\n{bad}\n{bad}\n")
    table(f"{HEADER}\n{bad}\n", "more.csv")
    with pytest.raises(InputError) as caught:
        tables.rows(hosting.FOLDER, ApiPrice)
    assert len(caught.value.problems) == 6
