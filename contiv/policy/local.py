"""A pod interface of this node, and how it is told which pod's it is. Pure; next: ``state.py``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from contiv.fastpath import acl
from contiv.model import kube
from contiv.model.ip import Address
from contiv.model.node import Attachment
from contiv.policy.index import PodRecord
from contiv.policy.rules import Fault

_STATIC_UID: Final = re.compile(r"[0-9a-f]{32}")
"""How kubelet names a static pod towards CNI (pkg/kubelet/config: a hash); its object has another UID."""


class Local:
    """A pod interface of this node with what policies make of it.

    ``ingress``, ``egress``: what the direction allows; None when it is not isolated or everything is allowed.
    ``shut``: it is not known, so it reaches nothing at all, also by no service.
    ``presumed``: it is not known and open all the same, since no policy could be known to select it.
    ``young``: the other lists that judge what it sends may not stand yet, so it uses no service.
    ``pairs``: by other local pods that may not reach everything here, their addresses with what both sides allow.
    """

    __slots__ = (
        "addresses",
        "attachment",
        "egress",
        "ingress",
        "pairs",
        "pod",
        "policies",
        "presumed",
        "shut",
        "young",
    )

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.pod: PodRecord | None = None
        self.addresses: tuple[Address, ...] = (attachment.ip,)
        self.policies: tuple[tuple[str, str], ...] = ()
        self.shut = False
        self.presumed = False
        self.young = False
        self.ingress: acl.Allowed | None = acl.Allowed.NONE
        self.egress: acl.Allowed | None = acl.Allowed.NONE
        self.pairs: dict[Local, tuple[tuple[Address, acl.Ports], ...]] = {}

    @property
    def name(self) -> tuple[str, str]:
        """Namespace and name of the pod."""
        return self.attachment.pod_namespace, self.attachment.pod_name

    @property
    def interface(self) -> str:
        """The pod's interface in VPP."""
        return self.attachment.interface

    def address(self, version: Literal[4, 6]) -> Address | None:
        """The pod's address of one family."""
        return next((each for each in self.addresses if each.version == version), None)


def same_pod(attachment: Attachment, uid: str) -> bool:
    """Whether the attachment is of the pod object with this UID, not of one before or after it with its name."""
    own = attachment.pod_uid
    return not own or not uid or own == uid or _STATIC_UID.fullmatch(own) is not None


def told_addresses(pod: kube.Pod) -> tuple[tuple[Address, ...], tuple[Fault, ...]]:
    """The addresses in a pod's status, and the texts there that are none."""
    addresses: list[Address] = []
    faults: list[Fault] = []
    for number, text in enumerate(pod.pod_ips):
        address = parse_address(text)
        if address is None:
            problem = f"{text!r} is no IP address"
            faults.append(Fault(kube.PODS.plural, pod.namespace, pod.name, f"status.podIPs[{number}]", problem))
        elif address not in addresses:
            addresses.append(address)
    return tuple(addresses), tuple(faults)


def joined(told: tuple[Address, ...], attached: Iterable[Local]) -> tuple[Address, ...]:
    """The addresses in a pod's status, and those that it got here but that its status does not show yet."""
    more = tuple(local.attachment.ip for local in attached if local.attachment.ip not in told)
    return (*told, *more) if more else told


def parse_address(text: str) -> Address | None:
    """The address, or None for other text."""
    try:
        return Address.parse(text)
    except ValueError:
        return None
