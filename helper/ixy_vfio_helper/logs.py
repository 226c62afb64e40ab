"""The helper's log, on standard error: what devices, files and other processes put into it is filtered."""

import logging
from typing import Any

from ixy_vfio_helper.shown import shown, shown_lines


class ShownFormatter(logging.Formatter):
    """A message of a log is one line, as by `shown`; a traceback below it has its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """In one line."""
        record.message = shown(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Each line of a traceback filtered."""
        return "\n".join(shown_lines(super().formatException(ei)))


def log_shown(format: str) -> None:
    """Log to standard error by `format`, all of it filtered."""
    handler = logging.StreamHandler()
    handler.setFormatter(ShownFormatter(format))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
