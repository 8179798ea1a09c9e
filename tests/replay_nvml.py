"""NVML as a recording tells it: a module-like object that answers from JSON and raises pynvml's own errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

RECORDINGS = Path(__file__).parent / "recordings"


class ReplayNvml:
    """Answers what the recordings of one or more cards say; `overrides` (function → value or callable) go before."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *recordings: dict[str, Any], **overrides: Any) -> None:
        self._recordings, self._overrides = recordings, overrides
        self.sessions = 0

    @classmethod
    def of(cls, *cards: str, **overrides: Any) -> ReplayNvml:
        """Return the replay of `tests/recordings/nvml_<card>.json`, one file a card."""
        return cls(*(json.loads((RECORDINGS / f"nvml_{card}.json").read_text()) for card in cards), **overrides)

    def nvmlInit(self) -> None:  # noqa: N802  (NVML's own names)
        if not self._recordings:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.sessions += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._recordings)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if not 0 <= index < len(self._recordings):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def __getattr__(self, function: str) -> Callable[..., Any]:
        def answer(handle: int = 0, *arguments: int) -> Any:
            if self.sessions < 1:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
            recording = self._recordings[handle]
            if function in self._overrides:
                value = self._overrides[function]
                value = value() if callable(value) else value
            elif function in recording["unsupported"]:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            else:
                answers = recording["system"] | recording["device"]
                assert function in answers, f"{function} is asked but not in the recording"
                value = answers[function]
            if isinstance(value, Exception):
                raise value
            if arguments:
                return value[str(arguments[0])]
            return SimpleNamespace(**value) if isinstance(value, dict) else value

        if not function.startswith("nvml"):
            raise AttributeError(function)
        return answer


def unsupported() -> pynvml.NVMLError:
    """Return the error of a function that a card does not support."""
    return pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def lost() -> pynvml.NVMLError:
    """Return the error of a card that fell off the bus."""
    return pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
