"""What a kind of object in the data plane must tell the scheduler: the one seam between desired keys and
hands.

In comes a key with its frozen value; out go operations on VPP or Linux and the metadata that they yield (such
as a ``sw_if_index``). A descriptor never decides when it is called: ``plan.py`` does, from the declared
dependencies. Subclass ``Descriptor`` to get the defaults. Next in the flow: ``registry.py`` finds the
descriptor of a key.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

Value: TypeAlias = Struct
"""A desired or actual value: a frozen msgspec struct whose equality decides the diff."""

V = TypeVar("V", bound=Struct)
M = TypeVar("M")


class Dependency(Struct, frozen=True, gc=False):
    """The value may exist only while ``key`` does, or while at least one key of ``any_of`` does.

    Alternatives must not themselves rest on the value: they would hold each other up when all else is gone.
    ``lasting`` off: only the value's creation waits, and once there it may outlive what it waited for.
    ``label`` says what for ("interface", "vrf"); it appears in the list of what a pending key waits for.
    """

    label: str
    key: str = ""
    any_of: tuple[str, ...] = ()
    lasting: bool = True

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of which one must exist."""
        return (self.key,) if self.key else self.any_of

    def __str__(self) -> str:
        return f"{self.label} {' or '.join(self.keys)}"


def lasting(needs: tuple[Dependency, ...]) -> tuple[Dependency, ...]:
    """Those that hold for as long as the value is there."""
    for need in needs:
        if not need.lasting:
            return tuple([need for need in needs if need.lasting])
    return needs  # almost always, and asked for every value


class Actual(Struct, Generic[V, M], frozen=True):
    """One object as the data plane holds it, with the metadata that dependents read."""

    key: str
    value: V
    metadata: M


class Descriptor(Protocol[V, M]):
    """One kind of key. ``name`` ("vpp/route") is for people, ``prefix`` ("vpp/route/") starts all keys of the
    kind.

    ``retrieve_after`` names descriptors whose metadata ``retrieve`` reads, such as that of interfaces.
    ``create_after`` names descriptors whose creates and updates in the same transaction come first, well or not: an
    order that spares the data plane work, where a dependency would be too much.
    ``create_at_once`` is how many values one ``create_many`` may be given; 0 if the descriptor has none.
    Operations must tolerate a repetition: after an error the scheduler tries again without knowing how far it
    came.
    """

    name: str
    prefix: str
    retrieve_after: tuple[str, ...] = ()
    create_after: tuple[str, ...] = ()
    create_at_once: int = 0

    def dependencies(self, key: str, value: V) -> Iterable[Dependency]:
        """What must exist before the value and outlive it. Pure. Default: nothing."""
        return ()

    def claims(self, key: str, value: V) -> Iterable[str]:
        """Names of exclusive resources that the value holds (an address, a device name). Pure. Default: none.

        A create or update that claims what a deleted value held waits for that delete.
        """
        return ()

    def equivalent(self, key: str, old: V, new: V) -> bool:
        """Whether nothing needs to be done to get from ``old`` to ``new``. Default: equality."""
        return old == new

    def must_recreate(self, key: str, old: V, new: V) -> bool:
        """Whether the change takes a delete and a create. Default: yes if the descriptor has no
        ``update``."""
        return type(self).update is Descriptor.update

    def retriable(self, key: str, error: BaseException) -> bool:
        """Whether trying the failed operation again can help. Default: yes."""
        return True

    @abstractmethod
    async def create(self, key: str, value: V) -> M:
        """Make the object; returns its metadata. Any exception is a failed operation."""
        ...

    async def create_many(self, items: Sequence[tuple[str, V]]) -> Sequence[M | BaseException]:
        """Make several objects that do not wait for one another; for each its metadata or why it failed.

        An exception fails all of them. Called only for two or more, and only if ``create_at_once`` says so.
        """
        raise TypeError(f"{self.name} has no create_many: create_at_once has to be 0")

    async def update(self, key: str, old: V, new: V, metadata: M) -> M:
        """Change the object in place; returns its metadata from now on."""
        raise TypeError(f"{self.name} has no update: must_recreate has to be true for {key}")

    @abstractmethod
    async def delete(self, key: str, value: V, metadata: M) -> None:
        """Remove the object. That it is gone already is a success."""
        ...

    @abstractmethod
    async def retrieve(self, wanted: Mapping[str, V]) -> Iterable[Actual[V, M]]:
        """All objects of the kind that the data plane holds and that are ours, wanted or not, each key once.

        ``wanted`` is the desired part of the kind; it helps to fill in what the data plane does not tell.
        """
        ...


# Registry, plan and execution handle descriptors of all kinds; the value's type is the descriptor's own
# affair.
AnyDescriptor: TypeAlias = Descriptor[Any, Any]
