"""One family of errors. Every message says where, what, and what is allowed; only `cli` and `pages` catch them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_NAME = 120
"""Characters of an unknown name that a message repeats."""


class CapacityError(Exception):
    """Anything the product refuses to do, with a message fit for a person."""


class UnitError(CapacityError, ValueError):
    """A text that is not a quantity of the wanted dimension."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: where it stands, what is wrong, and what would be right."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class InputError(CapacityError):
    """Bad input. Carries every problem found, not only the first."""

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        self.problems = (Problem("", problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UnknownNameError(InputError):
    """A name that no catalogue holds; the message offers the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"unknown {kind} {name[:LONGEST_NAME]!r}; {suggestion(name[:LONGEST_NAME], known)}")


NEAR = 0.6
"""Likeness ÷ that of the nearest from which a name is suggested beside it."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the known names nearest to `name`, as the second half of an error message.

    Examples
    --------
    >>> suggestion("a100", ["a100-sxm-80gb", "t4"])
    'did you mean a100-sxm-80gb?'
    >>> suggestion("zzz", ["a10", "t4"])
    'known: a10, t4'
    """
    names = sorted(set(known))
    folded = {candidate.casefold(): candidate for candidate in names}
    wanted = name.casefold()
    close = [
        candidate
        for key, candidate in folded.items()
        if min(len(wanted), len(key)) > 1 and (wanted in key or key in wanted)
    ][:3]
    alike = difflib.get_close_matches(wanted, folded, n=3, cutoff=0.5)
    likeness = {key: difflib.SequenceMatcher(None, wanted, key).ratio() for key in alike}
    close += [folded[key] for key in alike if likeness[key] > NEAR * likeness[alike[0]] and folded[key] not in close]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    shown = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
    return f"known: {shown}" if names else "none are known"
