"""`capacity calibrate --from` and `capacity validate` on a table whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from command_line import capacity

from capacity import catalogue
from capacity.spec.calibration import Calibration

DEVICE, SHARE, LAUNCH_S = "a100-sxm-80gb", 0.6, 5e-6


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Products of an imaginary A100 that sustains 60 % of its dense rate: 5 µs, then compute."""
    draw = np.random.default_rng(1)
    m, n, k = (draw.integers(4096, 9000, 400) for _ in range(3))
    rate = catalogue.hardware(DEVICE).rate("bf16")
    seconds = LAUNCH_S + 2.0 * m * n * k / (SHARE * rate)
    names = {"hardware": DEVICE, "engine": "trtllm 1.0", "dtype": "bf16"}
    path = tmp_path_factory.mktemp("tables") / "gemm.csv"
    pd.DataFrame({**names, "m": m, "n": n, "k": k, "latency_us": seconds * 1e6}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(table):
    path = table.parent / "mine.yaml"
    words = ("--from", table, "--kind", "gemm", "--hardware", DEVICE, "--output", path, "--json")
    return path, capacity("calibrate", *words)


def test_calibrate_finds_the_share_that_the_table_was_made_with(fitted):
    path, said = fitted
    assert said.code == 0
    assert said.json["file"] == str(path)
    (row,) = said.json["kernels"]
    assert (row["family"], row["dtype"]) == ("library", "bf16")
    sustained = row["values"]["flop_efficiency"] / (1 + row["values"]["derating"])  # of launches this long
    assert sustained == pytest.approx(SHARE, rel=0.05)
    assert row["median_error"] < 0.02
    stored = Calibration.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert stored.model_dump(mode="json", exclude_none=True) == {k: v for k, v in said.json.items() if k != "file"}


def test_a_calibration_file_changes_the_plan(fitted):
    path, _ = fitted
    own = capacity("plan", "cross-encoder-rerank", "-H", DEVICE, "-c", path, "--json").json["options"][0]
    shipped = capacity("plan", "cross-encoder-rerank", "-H", DEVICE, "--json").json["options"][0]
    assert own["latency_quantile_s"] != shipped["latency_quantile_s"]


def test_validate_passes_and_fails_its_gates(table, fitted):
    words = ("validate", table, "--kind", "gemm", "--calibration", fitted[0])
    good = capacity(*words, "--max-median-error", "5%", "--json")
    assert good.code == 0
    assert good.json["rows"] == good.json["targets"]["latency_us"]["predicted"] == 400
    assert good.json["targets"]["latency_us"]["median_ape"] < 0.05
    assert good.json["targets"] == good.json["by_hardware"][DEVICE]
    bad = capacity(*words, "--max-median-error", "0.000001%")
    assert bad.code == 1
    assert "gate failed: latency_us: median error" in bad.err


def test_a_refused_row_is_counted_with_its_reason(table, tmp_path):
    frame = pd.read_csv(table).head(10)
    frame.loc[0, "hardware"] = "a100-imaginary"
    frame.loc[1, "m"] = 0
    path = tmp_path / "some.csv"
    frame.to_csv(path, index=False)
    said = capacity("validate", path, "--kind", "gemm", "--json")
    assert said.code == 1  # 8 of 10 predicted, 9 wanted
    assert sorted(said.json["refused"].values()) == [1, 1]
    assert any("a100-imaginary" in reason for reason in said.json["refused"])
    assert capacity("validate", path, "--kind", "gemm", "--min-share", "0.8").code == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_validate_writes_predictions_and_a_plot(table, tmp_path, suffix):
    output, plot = tmp_path / f"long{suffix}", tmp_path / "plot.html"
    assert capacity("validate", table, "-k", "gemm", "-O", output, "--plot", plot, "--json").code == 0
    long = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    names = ["row", "target", "measured", "predicted", "low", "high", "error", "basis", "reason"]
    assert list(long.columns[: len(names)]) == names
    assert long["row"].tolist() == list(range(400))
    assert np.allclose(long["error"], long["predicted"] / long["measured"] - 1)
    assert "plotly" in plot.read_text(encoding="utf-8")


def test_validate_prints_a_table_of_errors(table, fitted):
    said = capacity("validate", table, "--kind", "gemm", "--calibration", fitted[0])
    assert said.code == 0
    assert "gemm: 400 rows" in said.out
    assert DEVICE in said.out
    with pytest.raises(json.JSONDecodeError):
        _ = said.json
