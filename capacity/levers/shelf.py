"""Every lever that there is."""

from __future__ import annotations

from capacity.errors import UnknownNameError
from capacity.levers.buying import BUYING
from capacity.levers.lever import Lever
from capacity.levers.pipeline import PIPELINE
from capacity.levers.serving import SERVING
from capacity.levers.training import TRAINING

LEVERS: dict[str, Lever] = {lever.id: lever for lever in (*SERVING, *PIPELINE, *TRAINING, *BUYING)}
"""By id, in the order in which they are shown."""


def lever(name: str) -> Lever:
    """Return a lever by its id.

    Raises
    ------
    UnknownNameError
        For an id that no lever has; the nearest are named.
    """
    if name not in LEVERS:
        raise UnknownNameError("lever", name, LEVERS)
    return LEVERS[name]
