"""Writing files so that nothing is lost: whole or not at all, and never over something that cannot be read back."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from capacity.errors import InputError, Problem


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to `path` in one step: a reader sees the old file or the new one, never half of it.

    Raises
    ------
    InputError
        When the folder cannot be made or the file may not be written; the old file is untouched.
    """
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` to `path` in one step (see `write_text`).

    A link is followed, and a file keeps its permissions; a device or a pipe is written to, never replaced by a file.
    """
    target = Path(path).resolve()
    try:
        if target.is_dir():
            raise InputError([Problem(str(path), "is a folder; name a file in it")])
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(target)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).chmod(mode)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (FileExistsError, NotADirectoryError):
        raise InputError([Problem(str(path), "cannot be written: a file stands where its folder should be")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError([Problem(str(path), f"cannot be written: {reason}")]) from None
    return Path(path)


def _mode(target: Path) -> int:
    """Return the permissions of the file that is replaced; replacing needs no right to write it, so that is asked."""
    if not target.exists():
        return 0o644
    if not os.access(target, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(target.stat().st_mode)
