"""A kind of Kubernetes objects as a collection to reflect: reduced to what agents need, parts that are bad named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from contiv.model import keys, kube
from contiv.model.kubewire import ObjectError, reduce
from contiv.reflection.collection import Refuse

VALUE_BYTES_MAX: Final = 1 << 20
"""A stored object. etcd takes 1.5 MB a request by default; the largest endpoint slice is about 0.3 MB."""


class Objects:
    """All objects of one kind (``contiv.reflection.collection.Collection``)."""

    def __init__(self, kind: kube.AnyKind) -> None:
        self._kind = kind
        self.plural = kind.plural
        self.path = kind.collection_path
        self.prefix = kind.prefix
        self.status_key = keys.ksr_status(kind.plural)

    def key(self, namespace: str, name: str) -> str:
        """Key of one object in etcd."""
        return self._kind.key(name, namespace=namespace if self._kind.namespaced else "")

    def begin(self, stored: Mapping[str, bytes]) -> None:
        """Nothing to know: each object speaks for itself."""

    def read(self, raw: msgspec.Raw, refuse: Refuse) -> tuple[str, bytes]:
        """Key and stored value of an object; ObjectError when it cannot be used."""
        value = reduce(self._kind, raw)
        namespace = getattr(value, "namespace", "")
        for fault in getattr(value, "faults", ()):
            where, _, problem = fault.partition(": ")
            refuse(ObjectError(self.plural, namespace, value.name, field=where, problem=problem))
        data = self._kind.encode(value)  # type: ignore[arg-type]  # reduce gives what the kind stores
        if len(data) > VALUE_BYTES_MAX:
            problem = f"{len(data)} bytes are more than {VALUE_BYTES_MAX}"
            raise ObjectError(self.plural, namespace, value.name, field="object", problem=problem)
        return self.key(namespace, value.name), data

    def deleted(self, key: str) -> None:
        """Nothing to forget."""
