"""What a leader works with."""

from __future__ import annotations

import msgspec

from contiv.kube.client import KubeClient
from contiv.reflection.metrics import ReflectionMetrics
from contiv.store.client import Etcd
from contiv.store.records import Compare


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """Connections, the comparison that etcd makes before it takes a write of this leader, its name, its metrics."""

    client: KubeClient
    etcd: Etcd
    guard: Compare
    instance: str
    metrics: ReflectionMetrics
