"""Logs: one JSON object per line, with a stable name for what happened.

Every record of agentray's has `action=`, the name that alerts and tests rely on; the text is for
people. Ids and the correlation travel in fields. Prompts, arguments and keys are never logged.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats records as JSON lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD and v is not None})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(level: str, *, process: str) -> None:
    """Send agentray's logs to standard error; Ray keeps them in its session's log files.

    Only for processes that are agentray's own: a library leaves its user's logging alone.

    Args:
        level: as in `logging`.
        process: which one this is, for each line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    root = logging.getLogger("agentray")
    root.handlers = [handler]
    root.setLevel(level)
    root.propagate = False
