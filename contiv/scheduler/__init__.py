"""The scheduler: desired configuration in, ordered operations on the data plane out.

::

    Txn ─▶ scheduler ─▶ (retrieve) ─▶ diff ─▶ plan ─▶ operations ─▶ execute ─▶ Outcome
              │            │                                            │
              └─ record    └──────────── descriptors: VPP, Linux ───────┘

The modules ``diff``, ``graph``, ``plan`` and ``operations`` are pure.
"""

from contiv.scheduler.descriptor import Actual, AnyDescriptor, Dependency, Descriptor, Value
from contiv.scheduler.errors import (
    BlockedError,
    CycleError,
    OperationError,
    PendingError,
    RetrieveError,
    TransactionError,
    UnknownKeyError,
)
from contiv.scheduler.metadata import Metadata
from contiv.scheduler.operations import Operation, Verb
from contiv.scheduler.plan import Plan
from contiv.scheduler.scheduler import Scheduler, Settings
from contiv.scheduler.transaction import KeyStatus, Outcome, Resync, State, Txn

__all__ = [
    "Actual",
    "AnyDescriptor",
    "BlockedError",
    "CycleError",
    "Dependency",
    "Descriptor",
    "KeyStatus",
    "Metadata",
    "Operation",
    "OperationError",
    "Outcome",
    "PendingError",
    "Plan",
    "Resync",
    "RetrieveError",
    "Scheduler",
    "Settings",
    "State",
    "TransactionError",
    "Txn",
    "UnknownKeyError",
    "Value",
    "Verb",
]
