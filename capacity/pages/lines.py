"""Lines `key=value` of a view that say a whole document, as `--with` of the command line takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from capacity import outlook, wishes
from capacity.errors import InputError
from capacity.pages.state import View, path_of
from capacity.spec.space import Space


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one document.

    Attributes
    ----------
    name
        What the view calls them.
    read
        Reads the document that lines say.
    owned
        Keys that an input of the page sets; all others are typed as lines.
    """

    name: str
    read: Callable[[Sequence[str]], object]
    owned: tuple[str, ...]

    def of(self, view: View) -> tuple[str, ...]:
        """Return the lines of a view."""
        return tuple(getattr(view, self.name))

    def put(self, view: View, said: Mapping[str, str]) -> View:
        """Return `view` with keys set, or no longer set where the document says the same without.

        Raises
        ------
        InputError
            When the document does not allow a value; the view stays as it was.

        Examples
        --------
        >>> [EXPECT.put(View(scenario="a"), {"months": said}).expect for said in ("12", "36")]
        [('months=12',), ()]
        """
        rest = tuple(line for line in self.of(view) if path_of(line) not in said)
        changed = (*rest, *(f"{key}={text}" for key, text in said.items()))
        found = self.read(changed)
        try:
            same = self.read(rest) == found
        except InputError:
            same = False
        return self._with(view, rest if same else changed)

    def drop(self, view: View, key: str) -> View:
        """Return `view` without what its lines say about `key` and all below it.

        Examples
        --------
        >>> EXPECT.drop(View(scenario="a", expect=("commitment.term=1-year", "months=12")), "commitment").expect
        ('months=12',)
        """
        return self._with(view, tuple(line for line in self.of(view) if path_of(line).split(".")[0] != key))

    def number(self, key: str, view: View, value: float | None, parts: int = 1) -> View:
        """Return `view` with a number set, which a person gives in `parts` of one; None takes it away."""
        return self.drop(view, key) if value is None else self.put(view, {key: f"{value / parts:.10g}"})

    def others(self, view: View) -> list[str]:
        """Return the lines that no input of the page shows."""
        return [line for line in self.of(view) if path_of(line) not in self.owned]

    def retyped(self, view: View, text: str) -> View:
        """Return `view` with its other lines replaced by those of a text.

        Raises
        ------
        InputError
            For a line that the document does not allow.

        Examples
        --------
        >>> EXPECT.retyped(View(scenario="a", expect=("months=12",)), "growth.users=0.01").expect
        ('months=12', 'growth.users=0.01')
        """
        mine = self.others(view)
        typed = tuple(line.strip() for line in text.splitlines() if line.strip())
        changed = (*(line for line in self.of(view) if line not in mine), *typed)
        self.read(changed)
        return self._with(view, changed)

    def _with(self, view: View, lines: tuple[str, ...]) -> View:
        changed: dict[str, Any] = {self.name: lines}
        return replace(view, **changed)


EXPECT = Lines(
    "expect", outlook.expected, (
        "months", "growth.traffic", "price_decline", "discount_rate", "budget", "commitment.term", "commitment.share",
        "refresh.month", "refresh.hardware",
    ),
)  # fmt: skip
"""What is expected of the coming months: `capacity risk --with`."""
CHOOSE = Lines(
    "choose", partial(wishes.read, Space), (
        "hardware", "engines", "dtypes", "levers", "most_levers", "terms", "budget", "least_room", "most_replicas",
    ),
)  # fmt: skip
"""What a search may choose from: `capacity optimize --with`."""
