"""Writing files so that nothing is lost: whole or not at all, and never over something that cannot be read back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from capacity.errors import InputError, Problem


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` in one step: a reader sees the old file or the new one, never half of it.

    Raises
    ------
    InputError
        When the folder does not exist or may not be written; the old file is untouched.
    """
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` to `path` in one step (see `write_text`)."""
    target = Path(path)
    try:
        if target.is_dir():
            raise InputError([Problem(str(path), "is a folder; name a file in it")])
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError([Problem(str(path), f"cannot be written: {error.strerror or error}")]) from None
    return target
