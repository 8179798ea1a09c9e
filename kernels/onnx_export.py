"""A torch module as an ONNX graph: the way that models take to ONNX Runtime and OpenVINO."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from capacity.errors import CapacityError
from kernels.torch_backend import MissingExtraError, torch

OPSET = 17
"""First opset with LayerNormalization as one node, which both engines know as such."""


def required(package: str, extra: str) -> Any:  # noqa: ANN401
    """Return a package that an optional extra installs.

    Raises
    ------
    MissingExtraError
        When it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.split(".", maxsplit=1)[0]
        raise MissingExtraError(f"{name} is not installed: `pip install 'capacity-planner[{extra}]'`") from None


def exported(module: Any, inputs: Sequence[Any]) -> bytes:  # noqa: ANN401
    """Return a torch module in evaluation mode as a serialized ONNX model of fixed shapes, weights inside.

    Parameters
    ----------
    module
        A torch module; its results may be one tensor or several.
    inputs
        Tensors that it is traced with; the graph's inputs are called input_0, input_1 …
    """
    required("onnx", "onnxruntime")
    buffer = io.BytesIO()
    names = [f"input_{index}" for index in range(len(inputs))]
    with silent(), torch().no_grad():
        torch().onnx.export(
            module, tuple(inputs), buffer, dynamo=False, input_names=names, opset_version=OPSET,
            do_constant_folding=True,
        )  # fmt: skip
    model = buffer.getvalue()
    if len(model) >= 2**31:
        raise CapacityError(f"an ONNX file holds less than 2 GiB; this model needs {len(model) / 2**30:.1f} GiB")
    return model


@contextmanager
def silent() -> Iterator[None]:
    """Keep what exporters remark about constants (fixed shapes are wanted) and about their own age to themselves."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
