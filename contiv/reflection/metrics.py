"""What a reflecting process counts, per kind, in its registry. Names begin with its own: ``contiv_ksr_``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contiv.metrics import LATENCY_BUCKETS_S


class ReflectionMetrics:
    """All metrics of ``process``, made once. The label ``kind`` is the plural."""

    def __init__(self, registry: CollectorRegistry, process: str) -> None:
        prefix = f"contiv_{process}"
        kind = ("kind",)
        self.adds = Counter(f"{prefix}_adds", "objects added to etcd", kind, registry=registry)
        self.updates = Counter(f"{prefix}_updates", "objects changed in etcd", kind, registry=registry)
        self.deletes = Counter(f"{prefix}_deletes", "objects deleted from etcd", kind, registry=registry)
        self.events = Counter(f"{prefix}_events", "events that the API server sent", kind, registry=registry)
        self.resyncs = Counter(f"{prefix}_resyncs", "complete lists reflected", kind, registry=registry)
        self.errors = Counter(
            f"{prefix}_errors",
            "failures survived: of the API server, of etcd, and objects that cannot be read",
            ("kind", "source"),
            registry=registry,
        )
        self.objects = Gauge(f"{prefix}_objects", "objects in etcd", kind, registry=registry)
        self.synced = Gauge(f"{prefix}_synced", "1 while etcd follows the API server", kind, registry=registry)
        self.lag = Histogram(
            f"{prefix}_lag_seconds",
            "from an event's arrival to its commit in etcd",
            kind,
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.leader = Gauge(f"{prefix}_leader", "1 while this instance is the active one", registry=registry)
