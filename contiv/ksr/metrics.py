"""What KSR counts, per kind, in the process's registry. Names begin with ``contiv_ksr_``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contiv.metrics import LATENCY_BUCKETS_S


class KsrMetrics:
    """All of KSR's metrics, made once a process. The label ``kind`` is the plural."""

    def __init__(self, registry: CollectorRegistry) -> None:
        kind = ("kind",)
        self.adds = Counter("contiv_ksr_adds", "objects added to etcd", kind, registry=registry)
        self.updates = Counter("contiv_ksr_updates", "objects changed in etcd", kind, registry=registry)
        self.deletes = Counter("contiv_ksr_deletes", "objects deleted from etcd", kind, registry=registry)
        self.events = Counter("contiv_ksr_events", "events that the API server sent", kind, registry=registry)
        self.resyncs = Counter("contiv_ksr_resyncs", "complete lists reflected", kind, registry=registry)
        self.errors = Counter(
            "contiv_ksr_errors",
            "failures survived: of the API server, of etcd, and objects that cannot be read",
            ("kind", "source"),
            registry=registry,
        )
        self.objects = Gauge("contiv_ksr_objects", "objects in etcd", kind, registry=registry)
        self.synced = Gauge("contiv_ksr_synced", "1 while etcd follows the API server", kind, registry=registry)
        self.lag = Histogram(
            "contiv_ksr_lag_seconds",
            "from an event's arrival to its commit in etcd",
            kind,
            registry=registry,
            buckets=LATENCY_BUCKETS_S,
        )
        self.leader = Gauge("contiv_ksr_leader", "1 while this instance is the active one", registry=registry)
