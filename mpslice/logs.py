"""Logs: one JSON object a line on stderr, with the pod, node and plan that a line is about.

Callers pass those as `extra={"pod": …}`; everything that is not logging's own lands in the line.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_OWN: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}
)


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON: time, level, logger, message, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _OWN},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def set_up_logging(level: str = "info") -> None:
    """Sends every log line of the process to stderr; `level` is a name that logging knows."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A line for each request that the ops port answers would drown the rest.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    # What is wrong with a kubeconfig is said once, by the error that ends the start.
    logging.getLogger("kubernetes_asyncio.config").setLevel(logging.CRITICAL)
