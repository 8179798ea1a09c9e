"""What published measurements say a lever does to quality."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from capacity.spec.quantity import Id, Name, Spec


class Note(Spec):
    """One published effect on quality, or that none was found."""

    note: str
    source: str
    """Citation, and where it was read."""


class QualityNotes(Spec):
    """Published effects by lever."""

    id: Id
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    notes: dict[Name, Note]
