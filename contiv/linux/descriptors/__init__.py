"""What the scheduler calls for kernel objects: one file a kind. In: desired values. Out: ``contiv.linux``'s
verbs.
"""

from __future__ import annotations

from contiv.linux.descriptors.interface import InterfaceDescriptor
from contiv.linux.descriptors.macvlan import MacvlanDescriptor
from contiv.linux.descriptors.veth import VethDescriptor
from contiv.linux.netns import Workers

__all__ = ["InterfaceDescriptor", "MacvlanDescriptor", "VethDescriptor", "linux_descriptors"]


def linux_descriptors(workers: Workers) -> list[VethDescriptor | MacvlanDescriptor | InterfaceDescriptor]:
    """All descriptors of this package, over one pool of threads."""
    return [VethDescriptor(workers), MacvlanDescriptor(workers), InterfaceDescriptor(workers)]
