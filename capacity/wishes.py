"""Documents that `KEY=VALUE` texts say: the flag `--with` of the command line, and the same lines in a link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from capacity import documents
from capacity.documents import Document
from capacity.errors import InputError, Problem
from capacity.spec.quantity import Spec

Form = TypeVar("Form", bound=Spec)
FLAG = "--with"


def read(form: type[Form], how: Sequence[str], base: Document | None = None) -> Form:
    """Return the document that KEY=VALUE texts say, put over `base`.

    Raises
    ------
    InputError
        For an unknown key or a value out of range, at its place in the file or its flag.

    Examples
    --------
    >>> from capacity.spec.space import Space
    >>> read(Space, ["terms=[spot, purchase]", "most_replicas=8"]).terms
    ('spot', 'purchase')
    """
    found = base or Document(FLAG, {})
    try:
        for said in how:
            found = documents.merged(found, documents.setting(said))
        return documents.validated(found, form)
    except InputError as error:
        raise InputError([Problem(p.where.replace("--set", FLAG), p.what) for p in error.problems]) from None
