"""Names of accelerators in price catalogs, which say less than a device is: what is not said is never assumed."""

from __future__ import annotations

import re

from capacity.documents import catalogue
from capacity.errors import InputError, UnknownNameError

_GLUED = re.compile(r"(?<=\d)(?=(?:nvl|sxm|pcie|ada)\b)|(?<=rtx)(?=pro|a?\d)|(?<=rtxpro)(?=\d)|(?<=pro)(?=\d)")
_SAME = {"a6000": "rtx-a6000", "trainium": "trainium1", "gaudi-2": "gaudi2", "gaudi-3": "gaudi3"}
_FORMS = {"sxm", "pcie", "nvl"}
_MEMORY = re.compile(r"(\d+)gb")


class UnsaidError(InputError):
    """A name that several devices share."""

    def __init__(self, name: str, ids: list[str]) -> None:
        super().__init__(f"{name} says no more than {' or '.join(ids)}")


def accelerator(name: str, memory_bytes: float | None = None) -> str:
    """Return the id of the one hardware profile that a catalog's accelerator means.

    Parameters
    ----------
    name
        As catalogs write it: A100-80GB, H100NVL, RTX4090.
    memory_bytes
        Memory of one device where the catalog says it [byte]; 10 % more or 7 % less than an id says is the same.

    Raises
    ------
    UnsaidError
        When several profiles fit, or the only one has a form factor (PCIe, NVL) that the name does not say.
    UnknownNameError
        When none fits.

    Examples
    --------
    >>> accelerator("L4"), accelerator("RTX4090"), accelerator("A100-SXM", 80e9), accelerator("B200")
    ('l4', 'rtx-4090', 'a100-sxm-80gb', 'b200-sxm')
    >>> accelerator("A100-80GB")
    Traceback (most recent call last):
    capacity.spec.accelerators.UnsaidError: A100-80GB says no more than a100-pcie-80gb or a100-sxm-80gb
    """
    known = catalogue("hardware_profiles")
    folded = _GLUED.sub("-", "-".join(re.split(r"[\s_/-]+", name.strip().casefold())))
    said = _SAME.get(folded, folded)
    if said in known:
        return said
    words = said.split("-")
    fitting = [id for id in known if _fits(words, id.split("-"), memory_bytes)]
    if not fitting:
        raise UnknownNameError("accelerator", name[:60], known)
    unsaid = (_FORMS - {"sxm"}) & set(fitting[0].split("-")) - set(words)
    if len(fitting) > 1 or unsaid:
        raise UnsaidError(name[:60], sorted(fitting))
    return fitting[0]


def _fits(words: list[str], id_words: list[str], memory_bytes: float | None) -> bool:
    if words[0] != id_words[0] or not set(words) <= set(id_words):
        return False
    sizes = [int(match[1]) * 1e9 for word in id_words if (match := _MEMORY.fullmatch(word))]
    return memory_bytes is None or not sizes or 0.93 <= memory_bytes / sizes[0] <= 1.1
