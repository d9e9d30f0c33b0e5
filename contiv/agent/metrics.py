"""The agent's figures for Prometheus: the loop's load, CNI calls, how long events take to reach the data plane."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contiv.cni.server import CallRecord
from contiv.metrics import LATENCY_BUCKETS_S


class AgentMetrics:
    """Implements the loop's ``Metrics`` and the CNI server's observer."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._depth = Gauge("contiv_events_queued", "Events that wait for the loop", registry=registry)
        self._events = Counter("contiv_events_total", "Events processed", ["event", "result"], registry=registry)
        self._waited = Histogram(
            "contiv_event_wait_seconds", "Time in the queue", ["event"], buckets=LATENCY_BUCKETS_S, registry=registry
        )
        self._duration = Histogram(
            "contiv_event_duration_seconds",
            "From the start of an event's transaction to its answer",
            ["event"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._batches = Counter("contiv_transactions_total", "Transactions", ["result"], registry=registry)
        self._keys = Histogram(
            "contiv_transaction_keys",
            "Keys of a transaction",
            buckets=(1, 5, 10, 50, 100, 500, 5000),
            registry=registry,
        )
        self._cni = Histogram(
            "contiv_cni_call_seconds", "CNI calls", ["command", "code"], buckets=LATENCY_BUCKETS_S, registry=registry
        )

    def queue_depth(self, depth: int) -> None:
        """Events waiting."""
        self._depth.set(depth)

    def event(self, name: str, *, waited_s: float, duration_s: float, failed: bool) -> None:
        """One event is done."""
        self._events.labels(name, _result(failed)).inc()
        self._waited.labels(name).observe(waited_s)
        self._duration.labels(name).observe(duration_s)

    def batch(self, *, events: int, keys: int, duration_s: float, failed: bool) -> None:
        """One transaction is done."""
        self._batches.labels(_result(failed)).inc()
        self._keys.observe(keys)

    def cni_call(self, record: CallRecord) -> None:
        """One CNI call ended."""
        self._cni.labels(record.command, str(record.code)).observe(record.duration_s)


def _result(failed: bool) -> str:
    return "failed" if failed else "ok"
