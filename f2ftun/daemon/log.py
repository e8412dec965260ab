"""Where the node writes what happens: stderr in the foreground, else `daemon.log` in the state folder.

Two files of 1 MiB at most. A line is a line: what came from outside and does not print is escaped.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path
from typing import Final

LOG_FILE: Final = "daemon.log"
MAX_LOG_BYTES: Final = 1024 * 1024
"""Then the file becomes `daemon.log.1`, in place of the one before; a year of a quiet node."""


class Lines(logging.Formatter):
    """Formats one record as one line; a traceback of our own keeps its lines, indented."""

    def __init__(self, with_time: bool) -> None:
        super().__init__(("%(asctime)s " if with_time else "") + "%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Escape what would not print as itself."""
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def open_log(level: str, state: Path | None) -> None:
    """Write records from `level` up to the log of the state folder, or to stderr where there is none given."""
    if state is None:
        handler: logging.Handler = logging.StreamHandler()
    else:
        handler = logging.handlers.RotatingFileHandler(state / LOG_FILE, maxBytes=MAX_LOG_BYTES, backupCount=1)
    handler.setFormatter(Lines(with_time="JOURNAL_STREAM" not in os.environ or state is not None))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.raiseExceptions = False
    set_level(level)


def set_level(level: str) -> None:
    """Write our own records from `level` up; those of libraries only from warnings up."""
    logging.getLogger("f2ftun").setLevel(level.upper())
