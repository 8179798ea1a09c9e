"""The command line: options and help only. Each command imports what it needs when it runs, so `--help` is instant.

Exit codes: 0 fine, 1 infeasible or a gate failed, 2 bad input, 3 a defect of ours, 75 a check could not tell,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys

from capacity.cli import (  # noqa: F401  (their commands join the application)
    answers,
    budgets,
    choosing,
    hosting,
    measures,
    pricing,
    showing,
)
from capacity.cli.app import app
from capacity.errors import CapacityError


def main() -> None:
    """Run the CLI; every refusal is one clear message on standard error, never a traceback."""
    try:
        app()
    except CapacityError as error:
        sys.exit(_said(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_said("interrupted", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            sys.exit(_said("the output cannot be written: no space left on the device", 2))
        if os.environ.get("CAPACITY_DEBUG"):
            raise
        kind = type(error).__name__
        sys.exit(_said(f"a defect of ours ({kind}: {error}); CAPACITY_DEBUG=1 shows where. Please report it.", 3))


def _said(message: str, code: int) -> int:
    lines = [f"error: {line}" for line in message.splitlines()] or ["error"]
    print(*lines, sep="\n", file=sys.stderr)
    return code
