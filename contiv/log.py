"""Logging: events with fields, as text for people or as JSON lines for machines, on standard error.

``configure`` is called once by a composition root; everybody else calls ``get_logger(__name__)`` and logs
``log.warning("watch_failed", kind="pods", error=str(error))``: an event name and what it is about. Libraries
that use the standard library's logging come out the same way.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog

LEVELS: Final = ("debug", "info", "warning", "error")


class _NamedLogger(structlog.PrintLogger):
    """Prints to standard error and knows the name that ``get_logger`` was given."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name


def configure(level: str = "info", json: bool = False) -> None:
    """Send events of ``level`` and above to standard error; ValueError for a level that is none of LEVELS."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}: choose one of {', '.join(LEVELS)}")
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=_NamedLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # Libraries are chatty below warning; their debug output is asked for by name, not by our level.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def get_logger(name: str) -> Any:
    """A logger whose events carry ``logger=<name>``. May be called before ``configure``."""
    return structlog.get_logger(name)
