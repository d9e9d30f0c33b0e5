"""Interface addresses: requests and what a link holds. IPv6 link-local addresses are the kernel's and left
alone.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from contiv.linux.netlink import CREATE, REPLACE, Conversation, Request, gone
from contiv.model.ip import Address, Network

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_F_NODAD: Final = 0x02  # linux/if_addr.h: a pod's address is ours to give, nobody waits for detection
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
LINK_LOCAL: Final = Network.parse("fe80::/10")


def add(index: int, address: Network, *, name: str) -> Request:
    """Give the link the address; one that it has is fine."""
    message = _message(index, address)
    accept = frozenset({errno.EEXIST})
    return Request(RTM_NEWADDR, CREATE | REPLACE, message, f"link {name}", f"address {address}", accept)


def remove(index: int, address: Network, *, name: str) -> Request:
    """Take the address away; one that is gone is fine."""
    return Request(RTM_DELADDR, 0, _message(index, address), f"link {name}", f"address {address}", gone())


def of_link(conversation: Conversation, index: int) -> list[Network]:
    """The addresses of the link, sorted."""
    query = ifaddrmsg()
    query["index"] = index
    answers = conversation.dump(Request(RTM_GETADDR, 0, query, f"link {index}", "addresses"))
    found = []
    for answer in answers:
        if answer["index"] != index:
            continue
        address = Address.parse(answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS"))
        if address not in LINK_LOCAL:
            found.append(Network(address.version, address.value, answer["prefixlen"]))
    return sorted(found)


def _message(index: int, address: Network) -> Any:
    message = ifaddrmsg()
    message["family"] = FAMILY[address.version]
    message["prefixlen"] = address.length
    message["index"] = index
    text = str(address.address)
    message["attrs"] = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
    if address.version == 6:
        message["flags"] = IFA_F_NODAD
    return message
