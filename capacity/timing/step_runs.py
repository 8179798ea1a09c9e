"""What runs whole encoder passes on a device: an engine's own kernels where they are known, else the device's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from capacity.spec import names
from capacity.spec.calibration import Calibration, Composition, Shared
from capacity.spec.engine import Engine
from capacity.spec.hardware import Hardware
from capacity.spec.steps import EngineSteps, SubmissionAnchor, Submissions
from capacity.timing import engine_kernels, transfer
from capacity.timing.band import Estimate
from capacity.timing.device import HALF, Device
from capacity.timing.form import MissingFactError
from capacity.work import transformer
from capacity.work.architecture import Transformer
from capacity.work.huggingface import transformer as from_config

FUSED_ENGINES = {"tensorrt", "trtllm", "vllm", "sglang", "fastertransformer", "onnxruntime", "openvino"}
"""Engine families that fuse element-wise work into their products; the rest launch it operation by operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device to run on, with everything that is known of devices."""

    hardware: Hardware
    calibrations: Sequence[tuple[Calibration, Hardware]]
    shared: Shared
    anchored: bool = True
    """Whether measured steps of this device are heeded."""

    @property
    def submissions(self) -> Submissions:
        """What MLPerf's scenarios do to a step.

        Raises
        ------
        MissingFactError
            Where `shared` has no engine's steps.
        """
        known = next(iter(self.shared.engine_steps), None)
        if known is None:
            raise MissingFactError(f"calibration {self.shared.id} has no engine_steps: nothing is known of submissions")
        return known.submissions

    def engine_steps(self, engine: str, dtype: str) -> EngineSteps | None:
        """Return the engine's own kernels, or those of an engine like it where no kernels of this device were measured.

        Parameters
        ----------
        engine
            Engine family, see `names.engine`.
        """
        known = [item for item in self.shared.engine_steps if engine_kernels.runs(self.hardware, dtype, item)]
        meant = [item for item in known if item.engine == engine]
        return next(iter(meant or ([] if self._timed(dtype) else known)), None)

    def measured(self, engine: str, dtype: str) -> Composition | None:
        """Return what measured steps of this device say of an engine at a dtype."""
        if not self.anchored:
            return None
        own = (item for item, _ in self.calibrations if item.hardware == self.hardware.id)
        found = (part for item in own for part in item.composition)
        twin = "fp16" if dtype == "bf16" else dtype
        return next((part for part in found if part.engine == engine and part.dtype in {dtype, twin}), None)

    def submitted(self, benchmark: str, scenario: str) -> SubmissionAnchor | None:
        """Return what the device's own submissions say of a benchmark, named as its anchors name it, in a scenario."""
        if not self.anchored:
            return None
        own = (item for item, _ in self.calibrations if item.hardware == self.hardware.id)
        found = (part for item in own for part in item.submissions)
        return next((part for part in found if (part.benchmark, part.scenario) == (benchmark, scenario)), None)

    def unanchored(self) -> Place:
        """Return the place as if no step of this device had been measured."""
        return dataclasses.replace(self, anchored=False)

    def _timed(self, dtype: str) -> bool:
        same = {dtype, HALF.get(dtype, dtype)}
        own = [item for item, _ in self.calibrations if item.hardware == self.hardware.id]
        fits = [(fit.operation, str(fit.dtype)) for item in own for fit in item.kernels]
        fits += [(fit.operation, str(fit.dtype)) for item in own for fit in item.efficiencies]
        return any(operation == "gemm" and each in same for operation, each in fits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """What runs a row's steps."""

    device: Device
    dtype: str
    fusion: Engine
    steps: EngineSteps | None
    error: float
    """Log standard deviation for another engine than the one that was measured [1]."""

    def step(self, model: Transformer, batch: float, tokens: float) -> Estimate:
        """Return the time of one forward pass [s]."""
        work = transformer.encode(model, batch, tokens, self.dtype, self.fusion)
        found = self.device.step(work, families=(self.steps.engine,) if self.steps else ())
        return found.widened("engine not measured", self.error) if self.error else found


def runner(place: Place, engine: str, dtype: str) -> Runner:
    """Return what runs passes of an engine (as a table writes it) in a dtype on a device."""
    family = names.engine(engine).family
    fused = "xla" in engine.casefold() or family in FUSED_ENGINES
    fusion: Engine = "fused" if fused else "eager"
    hardware, shared = place.hardware, place.shared
    if family == "tensorrt" and dtype == "int8" and hardware.rate("int8") is None:
        dtype = "fp16"  # TensorRT runs what has no int8 kernel in 16 bits
    steps = place.engine_steps(family, dtype)
    if steps is None:
        device = transfer.device(hardware, fusion, place.calibrations, shared)
        return Runner(device=device, dtype=dtype, fusion=fusion, steps=None, error=shared.engine_log_sigma)
    device = engine_kernels.device(hardware, dtype, steps, place.measured(steps.engine, dtype))
    if fusion == "eager":
        launched = {str(item.mode): item for item in shared.compositions["eager"]}
        device = dataclasses.replace(device, compositions=launched)
    error = 0.0 if family == steps.engine else shared.engine_log_sigma
    return Runner(device=device, dtype=dtype, fusion=fusion, steps=steps, error=error)


@cache
def bert(layers: int, hidden: int, heads: int) -> Transformer:
    """Return an encoder of BERT's architecture without a head."""
    return from_config({
        "model_type": "bert", "hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": 30522,
        "num_attention_heads": heads, "intermediate_size": 4 * hidden, "max_position_embeddings": 512,
    }, head="none")  # fmt: skip
