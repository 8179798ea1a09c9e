"""What is no measurement table is refused (exit 2); a bad row of one is counted with its reason (gate, exit 1)."""

from __future__ import annotations

import pandas as pd
import pytest
from bad_input import refused, run, write

HEADER = "hardware,engine,dtype,m,n,k,latency_us\n"
ROW = "a100-sxm-80gb,vllm 0.14.0,bf16,128,4096,4096,50\n"
ENCODER = "hardware,engine,dtype,layers,hidden_size,heads,batch,sequence_length,latency_ms\n"
ENCODER_ROW = "t4,TensorRT 8,fp16,12,768,12,1,128,2\n"
ATTENTION = "hardware,engine,phase,dtype,batch,query_length,kv_length,heads,kv_heads,head_dim,latency_us\n"
ATTENTION_ROW = "a100-sxm-80gb,vllm 0.14.0,decode,bf16,8,1,1024,32,8,128,50\n"
KINDS = {"gemm": HEADER + ROW, "encoder": ENCODER + ENCODER_ROW, "attention": ATTENTION + ATTENTION_ROW}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPACITY_PATH", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


NO_TABLES = {
    "empty": ("", "is not a CSV or Parquet table: No columns to parse"),
    "no rows": (HEADER, "holds no rows; a measurement is one row below the line of column names"),
    "a field too many": (HEADER + ROW + "1,2,3,4,5,6,7,8,9\n", "Expected 7 fields in line 3, saw 9"),
    "an open quote": (f'{HEADER}"{ROW}', "EOF inside string"),
    "a misspelled column": ((HEADER + ROW).replace(",k,", ",kk,"), "kind gemm needs column 'k'"),
    "binary": (bytes(range(128, 256)) * 9, "is not a CSV or Parquet table"),
    "Latin-1": ((HEADER + ROW).replace("vllm", "v\xe9llm").encode("latin-1"), "can't decode byte 0xe9"),
}


@pytest.mark.parametrize(("content", "said"), NO_TABLES.values(), ids=NO_TABLES)
def test_what_is_no_table_is_refused(content, said):
    for command in (("validate", write("t.csv", content), "-k", "gemm"), _fit("t.csv")):
        message = refused(*command, says=said)
        assert message.startswith("error: t.csv: ")


def _fit(path: str, kind: str = "gemm") -> tuple[str, ...]:
    return ("calibrate", "--from", path, "--kind", kind, "-H", "a100-sxm-80gb", "-O", "fitted.yaml")


def test_every_missing_column_is_named():
    write("t.csv", HEADER.replace(",", ";") + ROW)
    refused("validate", "t.csv", "-k", "gemm", says="kind gemm needs column 'hardware'; did you mean", others=5)


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1", bytes(100)])
def test_parquet_that_is_not_parquet_is_refused(content):
    write("t.parquet", content)
    refused("validate", "t.parquet", "-k", "gemm", says="t.parquet: is not a CSV or Parquet table: ")


def test_a_table_that_cannot_be_read_is_refused():
    write("folder.csv/file", "")
    refused("validate", "./missing.csv", "-k", "gemm", says="missing.csv: no such file")
    refused("validate", "./folder.csv", "-k", "gemm", says="folder.csv: is a folder; name a file in it")
    refused(*_fit("./missing.csv"), says="missing.csv: no such file")


BAD_ROWS = {
    "gemm": {
        "words": (",128,", ",lots,", "m must be a positive number"),
        "negative": (",128,", ",-128,", "m must be a positive number"),
        "zero": (",128,", ",0,", "m must be a positive number"),
        "infinite": (",128,", ",inf,", "m must be a positive number"),
        "beyond floats": (",128,", ",1e400,", "m must be a positive number"),
        "10^4 digits": (",128,", f",{'9' * 10_000},", "m must be a positive number"),
        "beyond reason": (",128,", ",1e300,", "m must be a positive number"),
        "blank": ("bf16", "", "dtype is blank"),
        "an unknown dtype": ("bf16", "bf17", "unknown dtype 'bf17'"),
        "an unknown engine": ("vllm", "banana", "unknown engine 'banana 0.14.0'"),
        "an unknown device": ("a100-sxm-80gb", "a100", "unknown hardware 'a100'; did you mean"),
        "a number for a device": ("a100-sxm-80gb", "100", "unknown hardware '100'"),
    },
    "encoder": {
        "words": (",12,768", ",deep,768", "layers must be a positive whole number"),
        "half a layer": (",12,768", ",12.5,768", "layers must be a positive whole number"),
        "infinite": (",12,768", ",inf,768", "layers must be a positive whole number"),
        "heads that do not divide": (",768,12", ",768,7", "hidden_size 768 is not a multiple"),
    },
    "attention": {
        "an unknown phase": ("decode", "sideways", "unknown phase 'sideways'"),
        "no head": (",32,8,", ",0,8,", "heads must be a positive number"),
    },
}
ROWS = {
    f"{kind}: {fault}": (kind, *case) for kind, cases in BAD_ROWS.items() for fault, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize(("kind", "old", "new", "said"), ROWS.values(), ids=ROWS)
def test_a_row_that_cannot_be_predicted_is_counted_and_fails_the_gate(kind, old, new, said):
    assert old in KINDS[kind]
    result = run("validate", write("t.csv", KINDS[kind].replace(old, new, 1)), "-k", kind)
    assert result.code == 1
    assert result.err.startswith("gate failed: ")
    assert f"refused 1: {said}" in " ".join(result.out.split())
    whole = run("validate", write("t.csv", KINDS[kind]), "-k", kind)
    assert (whole.code, whole.err) == (0, "")


@pytest.mark.parametrize("measured", ["", "fast", "0", "-5", "inf", "1e400"])
def test_a_row_without_a_measured_time_is_predicted_and_not_judged(measured):
    result = run("validate", write("t.csv", HEADER + ROW.replace(",50", f",{measured}")), "-k", "gemm", "--json")
    assert (result.code, result.err) == (0, "")
    target = result.json["targets"]["latency_us"]
    assert (target["predicted"], target["median_ape"]) == (1, None)


def test_parquet_columns_of_any_type_are_taken_or_counted():
    odd = {"hardware": ["t4"], "engine": 1, "dtype": None, "m": [1, 2], "n": "x", "k": True, "latency_us": 1.0}
    pd.DataFrame([odd]).to_parquet("odd.parquet")
    result = run("validate", "odd.parquet", "-k", "gemm")
    assert result.code == 1
    assert result.err.startswith("gate failed: ")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (HEADER.replace(",latency_us", "") + ROW[:-4] + "\n", "gemm", "a fit needs column 'latency_us'"),
        (HEADER + ROW.replace("a100-sxm-80gb", "t4") * 9, "gemm", "no rows of hardware a100-sxm-80gb; it has t4"),
        (HEADER + ROW.replace("bf16", "bf17") * 9, "gemm", "unknown dtype 'bf17'"),
        (ATTENTION + ATTENTION_ROW.replace("decode", "sideways") * 9, "attention", "unknown phase 'sideways'"),
    ],
)
def test_a_table_that_nothing_can_be_fitted_to_is_refused(text, kind, said):
    kept = write("fitted.yaml", "keep me")
    write("t.csv", text)
    refused(*_fit("t.csv", kind), says=said)
    assert kept.read_text() == "keep me"
