"""One emulated cluster without its network face: store, kinds, allocators and verbs, put together.

Comes in: settings. Goes out: ``Cluster`` with what a fresh API server has (namespaces, the ``kubernetes`` service).
The composition root of this package's pure part; ``server`` gives it a socket, tests may use it without one.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from contiv.emulator.kube import crd
from contiv.emulator.kube.allocators import ServiceAllocator
from contiv.emulator.kube.journal import Journal
from contiv.emulator.kube.kinds import CRD, NAMESPACE, SERVICE, Kinds
from contiv.emulator.kube.store import HISTORY_EVENTS_MAX, Store
from contiv.emulator.kube.strategy import Strategy
from contiv.emulator.kube.verbs import Verbs, WriteOptions

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
SERVICE_CIDR = "10.96.0.0/12"


class Settings(msgspec.Struct, frozen=True):
    """``data`` is the file that keeps the objects across restarts; None keeps them in memory alone."""

    service_cidr: str = SERVICE_CIDR
    history_max: int = HISTORY_EVENTS_MAX
    bookmark_interval_s: float = 10.0
    data: str | os.PathLike[str] | None = None


DEFAULTS = Settings()


class Cluster:
    """The objects and the verbs of one cluster."""

    def __init__(self, settings: Settings = DEFAULTS) -> None:
        self.settings = settings
        self.kinds = Kinds()
        self.store = Store(history_max=settings.history_max)
        self.allocator = ServiceAllocator(settings.service_cidr)
        self.verbs = Verbs(self.store, self.kinds, strategy=Strategy(self.allocator))
        self.store.table(SERVICE.table).observers.append(self.allocator.observe)
        self.store.table(CRD.table).observers.append(lambda event: crd.follow(self.store, self.kinds, event))
        self._journal: Journal | None = None
        if settings.data is not None:
            self._journal = Journal(Path(settings.data))
            self._journal.load(self.store)
            self.store.journal = self._journal.write
        self._bootstrap()

    def close(self) -> None:
        """Close the file that keeps the objects."""
        if self._journal is not None:
            self._journal.close()

    def _bootstrap(self) -> None:
        """What the real server makes by itself when it starts on an empty etcd."""
        options = WriteOptions(manager="kube-apiserver")
        for name in NAMESPACES:
            if ("", name) not in self.store.table(NAMESPACE.table).records:
                self.verbs.create(NAMESPACE, "", document={"metadata": {"name": name}}, options=options)
        if ("default", "kubernetes") in self.store.table(SERVICE.table).records:
            return
        service = {
            "metadata": {
                "name": "kubernetes",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "clusterIP": str(self.allocator.network[1]),
                "ports": [{"name": "https", "port": 443, "targetPort": 6443}],
            },
        }
        self.verbs.create(SERVICE, "default", document=service, options=options)
