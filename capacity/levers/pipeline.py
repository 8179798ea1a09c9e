"""Levers that skip stages of the pipeline or add one."""

from __future__ import annotations

from capacity.levers.lever import Changes, InapplicableError, Lever, Models
from capacity.spec.scenario import Scenario
from capacity.spec.stages import EncodeStage, HostStage

REMEMBERED_SHARE = 0.1
PATCHES = 197
"""Positions of ViT-B/16 on 224 × 224 pixels: 14 × 14 patches and one for the class (arXiv:2010.11929)."""
IMAGE_TOWER = "bert-base"
"""Twelve blocks of 768, as ViT-B/16 has."""


def _results(scenario: Scenario, _: Models) -> Changes:
    first = next((stage for stage in scenario.serving.stages if not isinstance(stage, HostStage)), None)
    if first is None or first.cache is not None or first.cache_hit_rate:
        raise InapplicableError("the first stage has a cache already, or computes nothing")
    entries = max(1, int(scenario.audience.users * REMEMBERED_SHARE))
    cache = {"entries": entries, "keys": "users"}
    return {"serving": {"stages": {first.name: {"cache": cache, "cache_answers": True}}}}


def _images(scenario: Scenario, _: Models) -> Changes:
    encoder = next((stage for stage in scenario.serving.stages if isinstance(stage, EncodeStage)), None)
    if encoder is None:
        raise InapplicableError("no encoder runs, beside which one for images could stand")
    tower = {
        "task": "encode", "model": IMAGE_TOWER, "tokens": PATCHES, "pool": encoder.pool, "dtype": encoder.dtype,
        "after": list(scenario.serving.after(encoder)),
    }  # fmt: skip
    return {"serving": {"stages": {"encode-image": tower}}}


PIPELINE = (
    Lever(
        id="result-cache", title="a cache of whole answers", group="serving", change=_results, note="result-cache",
        assumes="room for a tenth of the users, popularity by Zipf's law with exponent 0.9, answers never stale",
    ),
    Lever(
        id="image-tower", title="an encoder of images beside that of texts", group="model", change=_images,
        note="image-tower", assumes="one image a request through ViT-B/16",
    ),
)  # fmt: skip
