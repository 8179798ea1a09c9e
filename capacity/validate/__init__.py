"""Predictions held against a table of measurements: every row predicted or refused with its reason, errors with bands.

A prediction sees the input columns of its own row and the calibration, nothing else: targets may be blank, rows may
come in any order.
"""

from capacity.validate.figures import gate, summary
from capacity.validate.kind import Context, Kind, Predicted
from capacity.validate.kinds import KINDS
from capacity.validate.predictions import COLUMNS, predictions
from capacity.validate.table import MOST, checked, read_table, usable

__all__ = [
    "COLUMNS", "KINDS", "MOST", "Context", "Kind", "Predicted", "checked", "gate", "predictions", "read_table",
    "summary", "usable",
]  # fmt: skip
