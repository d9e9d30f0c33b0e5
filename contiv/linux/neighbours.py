"""Permanent neighbours (ARP and ND): requests and what a link holds. Learned entries are the kernel's."""

from __future__ import annotations

import socket
from typing import Any, Final

from pyroute2.netlink.rtnl.ndmsg import ndmsg

from contiv.linux.addresses import FAMILY
from contiv.linux.netlink import CREATE, REPLACE, Conversation, Request, gone
from contiv.model.ip import Address
from contiv.model.linux import Neighbour

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
PERMANENT: Final = 0x80  # linux/neighbour.h


def add(index: int, neighbour: Neighbour, *, name: str) -> Request:
    """Set the entry, whatever was there for the address."""
    message = _message(index, neighbour.address)
    message["state"] = PERMANENT
    message["attrs"].append(("NDA_LLADDR", neighbour.mac))
    subject = f"neighbour {neighbour.address} {neighbour.mac}"
    return Request(RTM_NEWNEIGH, CREATE | REPLACE, message, f"link {name}", subject)


def remove(index: int, neighbour: Neighbour, *, name: str) -> Request:
    """Take the entry away; one that is gone is fine."""
    message = _message(index, neighbour.address)
    return Request(RTM_DELNEIGH, 0, message, f"link {name}", f"neighbour {neighbour.address}", gone())


def of_link(conversation: Conversation, index: int) -> list[Neighbour]:
    """The permanent entries of the link, sorted."""
    found: list[Neighbour] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        query = ndmsg()
        query["family"] = family
        answers = conversation.dump(Request(RTM_GETNEIGH, 0, query, f"link {index}", "neighbours"))
        found += [
            Neighbour(Address.parse(answer.get_attr("NDA_DST")), answer.get_attr("NDA_LLADDR"))
            for answer in answers
            if answer["ifindex"] == index and answer["state"] & PERMANENT and answer.get_attr("NDA_LLADDR")
        ]
    return sorted(found)


def _message(index: int, address: Address) -> Any:
    message = ndmsg()
    message["family"] = FAMILY[address.version]
    message["ifindex"] = index
    message["attrs"] = [("NDA_DST", str(address))]
    return message
