"""`capacity calibrate --from`: a table becomes a file that `capacity validate --calibration` predicts by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import Result, capacity
from made_up import products
from tables_by_hand import BASE, rows

from capacity import calibration, catalogue
from capacity.errors import InputError
from capacity.timing.form import Board
from capacity.timing.gemm import GEMM
from capacity.timing.learn import LEAST_TREE_ROWS
from capacity.timing.tables import ROTATING_COPIES
from capacity.work.operations import Gemm

RTX = catalogue.hardware("rtx-3090")
"""A card that no shipped calibration was measured on."""
FAMILY = next(each for each in catalogue.shared().families if each.key == ("gemm", "library", "bf16", "bf16"))
TRUTH = GEMM.typical | dict(FAMILY.values) | {"t0_s": 5e-6, "flop_efficiency": 0.45, "bandwidth_efficiency": 0.6}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")


def table(count: int, seed: int = 0, *, quirk: bool = False) -> pd.DataFrame:
    """Return products on a slow RTX 3090, 3 % noise; a quirk is 40 % more wherever n is below 512."""
    sizes = products(count, seed)
    operation = Gemm(m=sizes.m, n=sizes.n, k=sizes.k, dtype="bf16", weight_copies=ROTATING_COPIES)
    times = GEMM.seconds(operation, Board(RTX), TRUTH) * np.random.default_rng(seed).lognormal(sigma=0.03, size=count)
    times = times * np.where(quirk & (sizes.n < 512), 1.4, 1.0)
    names = {"hardware": RTX.id, "engine": "vllm 0.14.0", "dtype": "bf16"}
    return pd.DataFrame(names | {"m": sizes.m, "n": sizes.n, "k": sizes.k, "latency_us": times * 1e6})


def written(frame: pd.DataFrame, name: str = "t.csv") -> Path:
    frame.to_csv(name, index=False)
    return Path(name)


def fitted(frame: pd.DataFrame, *more: object, output: str = "fitted.yaml") -> Result:
    done = capacity(
        "calibrate", "--from", written(frame), "--kind", "gemm", "--hardware", RTX.id, "--output", output, *more
    )
    assert done.code == 0, done.err
    return done


def validated(frame: pd.DataFrame, *more: object) -> dict:
    done = capacity("validate", written(frame, "unseen.csv"), "--kind", "gemm", *more, "--json")
    assert done.code == 0, done.err
    return done.json["targets"]["latency_us"]


def test_twenty_rows_make_predictions_of_unseen_shapes_right():
    unseen = table(300, seed=5)
    before = validated(unseen)
    fitted(table(20))
    after = validated(unseen, "--calibration", "fitted.yaml")
    assert before["median_ape"] > 0.15
    assert after["median_ape"] < 0.4 * before["median_ape"]
    assert after["band_coverage"] > 0.9
    assert after["band_width"] > 1.3  # 3 % of noise are 1.1, but few rows claim no more than a card nobody measured
    assert not Path("fitted.npz").exists()  # too few to learn from


def test_a_file_in_the_folder_calibrations_is_found_by_itself():
    unseen = table(300, seed=5)
    before = validated(unseen)
    done = capacity("calibrate", "--from", written(table(20)), "--kind", "gemm", "--hardware", RTX.id)
    assert done.code == 0, done.err
    assert Path("calibrations/rtx-3090-fused.yaml").is_file()
    assert validated(unseen)["median_ape"] < 0.4 * before["median_ape"]


def test_many_rows_teach_a_residual_beside_the_file_which_fewer_rows_remove():
    many, unseen = table(600, quirk=True), table(300, seed=5, quirk=True)
    fitted(many)
    beside = Path("fitted.npz")
    assert beside.is_file()
    (known, profile), *_ = catalogue.calibrations(["fitted.yaml"])
    assert profile.id == RTX.id
    assert [fit.learned for fit in known.kernels] == list(known.residuals) == ["gemm/library/bf16"]
    taught = validated(unseen, "--calibration", "fitted.yaml")
    assert taught["mean_ape"] < 0.06  # 40 % of a fifth of the rows without it

    content = beside.read_bytes()
    fitted(many.iloc[: LEAST_TREE_ROWS - 1])
    assert not beside.exists()  # it belonged to numbers that are gone
    assert validated(unseen, "--calibration", "fitted.yaml")["mean_ape"] > taught["mean_ape"]
    fitted(many)
    assert beside.read_bytes() == content  # the same rows, the same numbers


def test_json_tells_the_file_and_every_fit():
    said = fitted(table(20), "--json").json
    assert said["file"].endswith("fitted.yaml")
    (fit,) = said["kernels"]
    assert (fit["operation"], fit["family"], fit["rows"]) == ("gemm", "library", 20)
    assert "library" in fitted(table(20)).out


def test_few_rows_in_fp16_lean_on_what_is_known_of_bf16():
    frame = table(20).assign(dtype="fp16")
    (fit,) = fitted(frame, "--json").json["kernels"]
    assert (fit["dtype"], fit["log_sigma"] > 0.05) == ("fp16", True)  # no narrower than what was carried over
    unseen = table(300, seed=5).assign(dtype="fp16")
    assert validated(unseen, "--calibration", "fitted.yaml")["median_ape"] < 0.6 * validated(unseen)["median_ape"]


@pytest.mark.parametrize("name", ["RTX-3090", "NVIDIA RTX 3090"])
def test_hardware_may_be_written_as_in_the_table(name):
    said = fitted(table(20).assign(hardware=name), "--json").json
    assert said["kernels"][0]["rows"] == 20


def test_rows_of_unknown_hardware_are_passed_over():
    frame = pd.concat([table(20), table(5).assign(hardware="somebody's board")])
    assert fitted(frame, "--json").json["kernels"][0]["rows"] == 20


def test_several_tables_make_one_calibration():
    attention = pd.DataFrame(
        [BASE["attention"] | {"hardware": RTX.id, "batch": batch, "latency_us": 9.0 * batch} for batch in (1, 4, 16)]
    )
    done = capacity(
        "calibrate", "--from", written(table(20)), "--kind", "gemm", "--from", written(attention, "a.csv"), "--kind",
        "attention", "--hardware", RTX.id, "--output", "both.yaml", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {fit["operation"]: fit["rows"] for fit in done.json["kernels"]} == {"gemm": 20, "attention.prefill": 3}
    assert done.json["source"] == "20 rows of kind gemm (vllm 0.14.0); 3 rows of kind attention (vllm 0.14.0)"


def test_what_a_file_says_answers_before_what_is_shipped():
    fitted(table(20))
    known = catalogue.calibrations(["fitted.yaml"])
    assert known[0][0].id == "rtx-3090-fused"
    assert {item.id for item, _ in known} >= {item.id for item, _ in catalogue.calibrations()}


@pytest.mark.parametrize("kind", ["gemm_fp32", "attention", "moe", "collective"])
def test_tables_of_every_kind_of_launch_can_be_fitted(kind):
    frame = pd.concat([rows(kind)] * 4, ignore_index=True).assign(hardware="h100-sxm-80gb")
    sizes = next(name for name in ("tokens", "message_bytes", "batch") if name in frame)
    frame[sizes] = frame[sizes] * np.array([1, 2, 4, 8])
    target = next(name for name in frame if name.startswith("latency"))
    frame[target] = frame[target] * np.array([1, 1.5, 2.5, 4])
    done = capacity(
        "calibrate", "--from", written(frame), "--kind", kind, "--hardware", "h100-sxm-80gb", "--output", "f.yaml",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (fit,) = done.json["kernels"]
    assert (fit["rows"], fit["median_error"] < 1) == (4, True)
    assert capacity("validate", "t.csv", "--kind", kind, "--calibration", "f.yaml").code == 0


GOOD = table(5)


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (GOOD, ("--kind", "gem"), "unknown kind 'gem'; did you mean gemm"),
        (GOOD, ("--kind", "fp32_steps"), "unknown kind 'fp32_steps'; known: attention, collective"),
        (GOOD, ("--kind", "encoder"), "kind encoder needs column 'layers'"),
        (GOOD, ("--kind", "attention"), "kind attention needs column"),
        (GOOD, ("--kind", "gemm", "--kind", "gemm"), "1 --from tables need as many --kind, got 2"),
        (GOOD, (), "1 --from tables need as many --kind, got 0"),
        (GOOD, ("--kind", "gemm", "--engine", "quick"), "unknown engine 'quick'"),
        (GOOD, ("--kind", "gemm", "--hardware", "rtx-3091"), "did you mean rtx-3090"),
        (GOOD, ("--kind", "gemm", "--hardware", "t4"), "no rows of hardware t4; it has rtx-3090"),
        (GOOD.drop(columns="latency_us"), ("--kind", "gemm"), "a fit needs column 'latency_us'"),
        (GOOD.assign(latency_us=np.nan), ("--kind", "gemm"), "it has no usable row at all"),
        (GOOD.assign(dtype="fp99"), ("--kind", "gemm"), "unknown dtype 'fp99'"),
        (GOOD.iloc[:0], ("--kind", "gemm"), "holds no rows"),
    ],
)
def test_what_cannot_be_fitted_is_one_clear_line(frame, arguments, message):
    hardware = () if "--hardware" in arguments else ("--hardware", RTX.id)
    done = capacity("calibrate", "--from", written(frame), *hardware, *arguments, "--output", "f.yaml")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    errors = [line for line in done.err.splitlines() if not line.startswith("t.csv: rows left out")]
    assert errors
    assert all(line.startswith("error: ") for line in errors)
    assert not Path("f.yaml").exists()


def test_hardware_must_be_said():
    done = capacity("calibrate", "--from", written(GOOD), "--kind", "gemm")
    assert (done.code, "--from needs --hardware ID" in done.err) == (2, True)


def test_rows_that_need_a_spoiled_residual_file_are_refused_with_its_name():
    fitted(table(600, quirk=True))
    Path("fitted.npz").write_bytes(b"no archive")
    done = capacity("validate", written(GOOD), "--kind", "gemm", "--calibration", "fitted.yaml", "--json")
    assert done.code == 1  # no row was predicted
    ((reason, count),) = done.json["refused"].items()
    assert ("fitted.npz: holds no learned residuals" in reason, count) == (True, 5)
    with pytest.raises(InputError, match="holds no learned residuals"):
        len(catalogue.Residuals(Path("fitted.npz")))


def test_residuals_without_their_file_are_none():
    missing = catalogue.Residuals(Path("nowhere.npz"))
    assert (len(missing), list(missing), missing.get("gemm/library/bf16")) == (0, [], None)
    fitted(table(600, quirk=True))
    Path("fitted.npz").unlink()
    assert validated(table(50, seed=5), "--calibration", "fitted.yaml")["predicted"] == 50


def test_the_shipped_calibrations_need_no_tables():
    # Relatives and the family's constants come with the product: nothing is read but the user's table.
    known = calibration.Known(catalogue.calibrations(), catalogue.shared())
    assert known.shared.families
    assert all(item.source and not item.source.startswith("/") for item, _ in known.calibrations)
    assert json.loads(fitted(table(3), "--json").out)["kernels"][0]["rows"] == 3
