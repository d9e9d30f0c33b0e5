"""What the mirror and the reflector must know of a collection: where the API serves it, how etcd stores its objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from contiv.model.kubewire import ObjectError

Refuse = Callable[[ObjectError], None]
"""Hears of each object, or part of one, that cannot be used."""


class Collection(Protocol):
    """One collection of the API. ``prefix`` of its keys in etcd, ``status_key`` says that they are complete."""

    @property
    def plural(self) -> str:
        """Its name in the API's paths, in logs and in metrics."""
        ...

    @property
    def path(self) -> str:
        """Where the API lists all its objects."""
        ...

    @property
    def prefix(self) -> str:
        """Under which its objects are stored."""
        ...

    @property
    def status_key(self) -> str:
        """Where it stands that everything was stored."""
        ...

    def key(self, namespace: str, name: str) -> str:
        """Key of one object in etcd."""
        ...

    def begin(self, stored: Mapping[str, bytes]) -> None:
        """A list begins; ``stored`` is what etcd has."""
        ...

    def read(self, raw: msgspec.Raw, refuse: Refuse) -> tuple[str, bytes]:
        """Key and stored value of an object; ObjectError when it cannot be used. ``refuse`` hears of bad parts."""
        ...

    def deleted(self, key: str) -> None:
        """An object is gone."""
        ...
