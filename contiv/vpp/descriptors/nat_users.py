"""Which mappings of NAT44-ED a backend serves: VPP ends its connections by all of them when one gives it up.

``nat_mapping`` puts in what VPP holds and asks before it takes a backend out. The index of 100,000 backends is made at
the first question, so that a full synchronization does not wait for it, and kept from then on. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from contiv.model import vpp as model

SIZE = model.NAT_LOCAL_SIZE
ADDRESS_SIZE = 6
"""Address and port, at the beginning of a backend's record."""


class Users:
    """Mappings by key, and by the backends that they have."""

    def __init__(self) -> None:
        self._mappings: dict[str, model.NatMapping] = {}
        self._by_backend: dict[bytes, tuple[str, ...]] | None = None

    def replace(self, mappings: dict[str, model.NatMapping]) -> None:
        """These mappings are there, and no others."""
        self._mappings = mappings
        self._by_backend = None

    def put(self, key: str, value: model.NatMapping) -> None:
        """A mapping is there, or has other backends now."""
        before = self._mappings.get(key)
        self._mappings[key] = value
        if self._by_backend is not None and (before is None or before.backends != value.backends):
            old, new = _backends(before), _backends(value)
            self._remove(key, old - new)
            self._add(key, new - old)

    def drop(self, key: str) -> None:
        """A mapping is gone."""
        before = self._mappings.pop(key, None)
        if self._by_backend is not None:
            self._remove(key, _backends(before))

    def shared(self, key: str, backends: Iterable[bytes], *, besides: str | None = None) -> set[bytes]:
        """Those of ``backends`` (address and port) that another mapping than ``key`` has, of whichever protocol: VPP
        does not look at it where it ends sessions (nat44_ed.c, nat44_ed_add_del_lb_static_mapping_local).

        ``besides``: mappings with this label do not count. Those of one service change together.
        """
        wanted = set(backends)
        if not wanted:
            return wanted
        if self._by_backend is None:
            self._by_backend = {}
            for each, value in self._mappings.items():
                self._add(each, _backends(value))
        return {backend for backend in wanted if any(self._others(key, backend, besides))}

    def _others(self, key: str, backend: bytes, besides: str | None) -> Iterator[bool]:
        assert self._by_backend is not None
        for other in self._by_backend.get(backend, ()):
            yield other != key and (besides is None or self._mappings[other].label != besides)

    def _add(self, key: str, backends: Iterable[bytes]) -> None:
        index = self._by_backend
        assert index is not None
        alone = (key,)
        for backend in backends:
            others = index.get(backend)
            index[backend] = alone if others is None else (*others, key)

    def _remove(self, key: str, backends: Iterable[bytes]) -> None:
        index = self._by_backend
        assert index is not None
        for backend in backends:
            rest = tuple(other for other in index.get(backend, ()) if other != key)
            if rest:
                index[backend] = rest
            else:
                index.pop(backend, None)


def _backends(value: model.NatMapping | None) -> set[bytes]:
    records = value.backends if value is not None else b""
    return {records[at : at + ADDRESS_SIZE] for at in range(0, len(records), SIZE)}
