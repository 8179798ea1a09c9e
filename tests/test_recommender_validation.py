"""Published runs of recommenders and searches: rows are predicted from their inputs alone, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capacity import catalogue, validate
from capacity.validate import searches
from capacity.validate.recommender_work import DEEP_LAYERS, NETWORKS
from capacity.validate.recommenders import multiplied, run
from capacity.work.operations import total_flop
from capacity.work.retrieval import ExactIndex, GraphIndex, InvertedIndex

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "recommender_and_retrieval.csv"
CONTEXT = validate.Context(calibrations=catalogue.calibrations(), shared=catalogue.shared())
DLRM = {
    "category": "recsys_infer", "model": "DLRM", "phase": "infer", "dataset": "Criteo 1TB", "hardware": "A100 80GB",
    "hardware_id": "a100-sxm-80gb", "n_devices": 1.0, "batch_per_device": 4096.0, "precision": "FP16",
    "framework": "Triton Merlin HPS + TensorRT", "scenario": "offline", "concurrency": 1.0, "unit": "samples/s",
    "value": 2.6e6, "latency_avg_ms": 1.6, "recall": np.nan,
}  # fmt: skip
TRAIN = DLRM | {
    "category": "recsys_train", "model": "DLRM large", "phase": "train", "n_devices": 8.0, "precision": "mixed",
    "framework": "PyTorch",
}  # fmt: skip
SEARCH = {
    "category": "ann_gpu", "model": "faiss OPQ8_32,IVF262144,PQ8 nprobe=16", "phase": "search k=10",
    "dataset": "SIFT1B (10k queries)", "hardware": "T4", "hardware_id": "t4", "n_devices": 1.0,
    "batch_global": 10000.0, "unit": "s", "value": 0.2, "recall": 0.4,
}  # fmt: skip
EXACT = SEARCH | {
    "model": "faiss GpuIndexFlatL2", "phase": "exact top-4", "dataset": "SIFT1M (10k queries x 1M x 128d)",
}  # fmt: skip


def predicted(*rows: dict[str, object]) -> pd.DataFrame:
    frame = validate.checked(pd.DataFrame(list(rows)), "recommender", "t.csv")
    return validate.predictions(frame, "recommender", CONTEXT)


# --- work -----------------------------------------------------------------------------------------------------------


def test_flop_of_a_sample_by_hand():
    bottom = 13 * 512 + 512 * 256 + 256 * 128
    top = 1024 * 1024 + 1024 * 512 + 512 * 256 + 256
    dots = 27 * 27 * 128
    products = [op for op in NETWORKS["DLRM"].forward(1, "fp16", "fused") if op.operation == "gemm"]
    assert total_flop(products) == 2 * (bottom + 479 * 1024 + top + dots)
    deep = 1248 * 1024 + 4 * 1024 * 1024 + 1024
    products = [op for op in NETWORKS["Wide&Deep"].forward(1, "fp16", "fused") if op.operation == "gemm"]
    assert DEEP_LAYERS[0] == 4 * 128 + 11 * 64 + 19 + 13 == 1248
    assert total_flop(products) == 2 * deep
    assert NETWORKS["Wide&Deep"].parameters == deep + 5 * 1024 + 1


def test_parameters_by_hand():
    # NeuMF of MovieLens-20M has 31.8 M: nearly all of it (64 + 128) values for each user and item.
    ncf = NETWORKS["NCF"]
    layers = 256 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64 + 128 + 1
    assert ncf.parameters == layers
    assert ncf.table_entries == (138_493 + 26_744) * 192
    # Mult-VAE: items × 600 twice, 600 → 2 · 200, 200 → 600
    vae = NETWORKS["VAE-CF"]
    assert vae.parameters + vae.table_entries == 2 * 20_108 * 600 + 20_108 + 600 * 400 + 400 + 200 * 600 + 600


@pytest.mark.parametrize("network", NETWORKS)
def test_work_grows_with_the_samples(network):
    forward = NETWORKS[network].forward
    one, two = (total_flop(forward(samples, "fp16", "eager")) for samples in (100, 200))
    assert two == pytest.approx(2 * one)
    assert len(forward(1, "fp16", "eager")) >= len(forward(1, "fp16", "fused"))


def test_frameworks_multiply_in_tf32_where_the_device_can():
    boards = [catalogue.hardware(name) for name in ("a100-sxm-80gb", "v100-sxm-32gb")]
    assert [multiplied("FP32", board) for board in boards] == ["tf32", "fp32"]
    assert [multiplied("AMP", board) for board in boards] == ["fp16", "fp16"]


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_call_costs_its_operations_and_what_the_framework_adds():
    name = ("Triton Merlin HPS + TensorRT", "infer")
    (added,) = (item for item in CONTEXT.shared.recommender_frameworks if (item.framework, item.phase) == name)
    found = run(DLRM, pd.Series(DLRM))
    step_s = float(found.step(CONTEXT).value)
    call_s = step_s + added.call + 4096 * (26 + 13) * 4 / added.samples
    assert predicted(DLRM)["predicted"][0] == pytest.approx(4096 / call_s)
    assert step_s > 0


def test_larger_batches_and_more_devices_do_more():
    rows = [DLRM | {"batch_per_device": 4.0**power} for power in range(3, 9)]
    assert predicted(*rows)["predicted"].is_monotonic_increasing
    train = predicted(*(TRAIN | {"n_devices": float(count)} for count in (1, 4, 8)))["predicted"]
    assert train.is_monotonic_increasing
    assert train[2] < 8 * train[0]  # gradients and rows travel


def test_requests_that_wait_online_are_one_call():
    online = DLRM | {"scenario": "online", "concurrency": 8.0, "batch_per_device": 512.0}
    assert predicted(online)["predicted"][0] == predicted(DLRM)["predicted"][0]


def test_a_global_batch_is_shared():
    blank = TRAIN | {"batch_per_device": np.nan, "batch_global": 8 * 4096.0}
    assert predicted(blank)["predicted"][0] == predicted(TRAIN)["predicted"][0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "TFT"}, "no model profile for TFT; known are DLRM, DCNv2, NCF"),
        ({"model": "DLRMish"}, "no model profile for DLRMish"),
        ({"hardware_id": "titan-x"}, "unknown hardware 'titan-x'"),
        ({"hardware_id": np.nan}, "unknown hardware 'A100 80GB'"),
        ({"hardware": np.nan}, "hardware is blank"),
        ({"batch_per_device": np.nan}, "the row states neither batch_per_device nor batch_global"),
        ({"precision": np.nan}, "the row does not state its precision"),
        ({"framework": np.nan}, "the row does not state its framework"),
        ({"framework": "MXNet"}, "what MXNet adds to phase infer is not known; known are PyTorch"),
        ({"phase": "dream"}, "unknown phase 'dream'"),
    ],
)
def test_a_run_that_says_too_little_is_refused(change, reason):
    table = predicted(DLRM | change, DLRM)
    assert table["reason"][0].startswith(reason)
    assert table["reason"][1] == ""


# --- searches -------------------------------------------------------------------------------------------------------


def test_indexes_are_read_from_their_names():
    sift = searches.vectors("SIFT1B (10k queries)")
    found = searches.index("faiss OPQ8_32,IVF262144,PQ8 nprobe=16", sift)
    assert isinstance(found, InvertedIndex)
    assert (found.lists, found.probes, found.code_bytes, found.width, found.items) == (262_144, 16, 8, 32, 1e9)
    exact = searches.index("faiss GpuIndexFlatL2", searches.vectors("SIFT1M (10k queries x 1M x 128d)"))
    assert exact == ExactIndex(items=1e6, width=128, dtype="fp32", metric="l2")
    graph = searches.index("USearch HNSW M=16 efC=128 ef=64", searches.vectors("deep-1B"))
    assert isinstance(graph, GraphIndex)
    assert (graph.links, graph.breadth, graph.width) == (16, 64, 96)


def test_more_effort_takes_longer():
    rows = [SEARCH | {"model": f"faiss IVF262144,PQ8 nprobe={probes}"} for probes in (1, 16, 256)]
    assert predicted(*rows)["predicted"].is_monotonic_increasing
    assert predicted(EXACT | {"phase": "exact top-1024"}, EXACT)["predicted"].is_monotonic_decreasing


def test_devices_share_an_index():
    one, four = predicted(SEARCH, SEARCH | {"n_devices": 4.0})["predicted"]
    assert one / 4 <= four < one


def test_an_exact_search_is_no_faster_than_its_products():
    seconds = predicted(EXACT)["predicted"][0]
    assert seconds >= 2 * 1e4 * 1e6 * 128 / catalogue.hardware("t4").rate("fp32")
    rate = predicted(EXACT | {"unit": "queries/s"})["predicted"][0]
    assert rate == pytest.approx(1e4 / seconds)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "faiss-t1"}, "the model's name states no index"),
        ({"model": "faiss IVF1024,PQ8"}, "the model's name does not state nprobe"),
        ({"model": "USearch HNSW M=16"}, "the model's name does not state ef"),
        ({"model": "faiss IVF1024,SQ8 nprobe=1"}, "faiss IVF1024,SQ8 nprobe=1: indexes of scalar codes"),
        ({"dataset": "f32 x256"}, "the data set does not say how many vectors"),
        ({"dataset": "mine"}, "the vectors of data set 'mine' are not known"),
        ({"phase": "search"}, "phase 'search' does not state how many nearest"),
        ({"unit": "USD"}, "a result in USD is neither a time nor a rate of runs"),
        ({"unit": np.nan}, "a recall is neither a time nor a rate of runs"),
        ({"category": "genrec_infer", "model": "HSTU"}, "no model profile for HSTU"),
        ({"hardware_id": "titan-x"}, "unknown hardware 'titan-x'"),
    ],
)
def test_a_search_that_says_too_little_is_refused(change, reason):
    assert predicted(SEARCH | change)["reason"][0].startswith(reason)


# --- tables ---------------------------------------------------------------------------------------------------------


def test_a_row_is_predicted_from_its_inputs_alone():
    frame = pd.DataFrame([DLRM, TRAIN, SEARCH, EXACT, DLRM | {"precision": "FP32"}])
    found = predicted(*frame.to_dict("records"))["predicted"].tolist()
    assert np.isfinite(found).all()
    blank = frame.assign(value=np.nan, recall=np.nan, latency_avg_ms=np.nan, metric="x", notes="y", source="z")[::-1]
    assert predicted(*blank.to_dict("records"))["predicted"].tolist() == found[::-1]


@pytest.mark.skipif(not DATA.is_file(), reason="needs ../shared/data")
def test_published_runs():
    frame = validate.checked(validate.read_table(DATA), "recommender", str(DATA))
    found = validate.predictions(frame, "recommender", CONTEXT)
    assert len(found) == 1852
    assert ((found["reason"] == "") == found["predicted"].notna()).all()
    shuffled = frame.sample(frac=1.0, random_state=0).assign(value=np.nan, recall=np.nan, latency_avg_ms=np.nan)
    again = validate.predictions(shuffled, "recommender", CONTEXT)["predicted"]
    assert np.array_equal(again.to_numpy(), found["predicted"].to_numpy()[shuffled.index], equal_nan=True)
    runs = found[found["category"].str.startswith("recsys")]
    assert runs["predicted"].notna().mean() > 0.85
    # In sample for what frameworks add (17 %; devices left out 26 %), out of sample for the operations.
    assert runs["error"].abs().median() < 0.25
