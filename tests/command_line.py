"""Runs the CLI inside the test's process, so that a test of a command costs milliseconds, not a new interpreter."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from unittest import mock

from capacity import cli


@dataclass(frozen=True, slots=True)
class Result:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def capacity(*arguments: object) -> Result:
    """Return what `capacity ARGUMENTS` does, exit code and both streams."""
    out, err = io.StringIO(newline=""), io.StringIO(newline="")
    words = ["capacity", *map(str, arguments)]
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    return Result(code, out.getvalue(), err.getvalue())
