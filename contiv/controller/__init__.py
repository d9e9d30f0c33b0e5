"""The controller: events in, one transaction a batch out.

::

    push, call ─▶ queue ─▶ loop ─▶ dispatch ─▶ handlers ─▶ desired keys ─▶ scheduler
                    ▲        │                                                 │
                    └────────┴─ follow-ups, healing, periodic resync ◀─ outcome ┘─▶ answers, history
"""

from contiv.controller.event import (
    ControllerError,
    ControllerStoppedError,
    DownstreamResync,
    Event,
    FullResync,
    HandlerError,
    Kind,
    OwnershipError,
    QueueFullError,
    ReentrantCallError,
    Transaction,
    UpstreamResync,
)
from contiv.controller.handler import Commit, EventHandler, NoState, State
from contiv.controller.history import EventHistory, EventRecord
from contiv.controller.loop import Controller, Settings
from contiv.controller.metrics import Metrics, NoMetrics

__all__ = [
    "Commit",
    "Controller",
    "ControllerError",
    "ControllerStoppedError",
    "DownstreamResync",
    "Event",
    "EventHandler",
    "EventHistory",
    "EventRecord",
    "FullResync",
    "HandlerError",
    "Kind",
    "Metrics",
    "NoMetrics",
    "NoState",
    "OwnershipError",
    "QueueFullError",
    "ReentrantCallError",
    "Settings",
    "State",
    "Transaction",
    "UpstreamResync",
]
