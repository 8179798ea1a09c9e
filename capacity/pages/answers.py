"""Answers that take long, kept while others ask the same.

Streamlit's own caches replay what a function draws; here whoever makes an answer may tell a page how far it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Answers(Generic[Answer]):
    """The latest answers, by what was asked.

    Two who ask the same at once both make it. An answer that is left before it stands is not kept.

    Examples
    --------
    >>> squares = Answers[int](most=2)
    >>> [squares.get(number, lambda number=number: number**2) for number in (1, 2, 3)]
    [1, 4, 9]
    >>> squares.get(3, lambda: 0), squares.get(1, lambda: 0)
    (9, 0)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self._lock = Lock()

    def get(self, asked: Hashable, make: Callable[[], Answer]) -> Answer:
        """Return the answer to `asked`: the one that is kept, or a new one."""
        with self._lock:
            if asked in self._kept:
                self._kept.move_to_end(asked)
                return self._kept[asked]
        made = make()
        with self._lock:
            self._kept[asked] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made
