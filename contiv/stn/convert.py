"""STN's values to and from the messages on the wire. Pure."""

from __future__ import annotations

from contiv.stn import contiv_stn_pb2 as pb
from contiv.stn.errors import StnError, StnRefusal
from contiv.stn.model import NicInfo, StolenRoute


def nic_reply(nic: NicInfo) -> pb.Reply:
    """A reply that tells of a NIC."""
    routes = [
        pb.Route(destination=each.destination, gateway=each.gateway, source=each.source, metric=each.metric)
        for each in nic.routes
    ]
    return pb.Reply(
        nic=pb.Nic(
            interface=nic.interface,
            stolen=nic.stolen,
            mac=nic.mac,
            mtu=nic.mtu,
            addresses=nic.addresses,
            routes=routes,
            pci_address=nic.pci_address,
            kernel_driver=nic.kernel_driver,
        )
    )


def error_reply(error: Exception) -> pb.Reply:
    """A reply that tells what went wrong."""
    return pb.Reply(error=pb.Error(text=str(error), try_again=isinstance(error, StnRefusal)))


def nic_info(reply: pb.Reply) -> NicInfo:
    """The NIC in a reply; the daemon's StnError or StnRefusal raised here where it has one."""
    if reply.WhichOneof("outcome") == "error":
        raise (StnRefusal if reply.error.try_again else StnError)(reply.error.text)
    nic = reply.nic
    return NicInfo(
        interface=nic.interface,
        stolen=nic.stolen,
        mac=nic.mac,
        mtu=nic.mtu,
        addresses=tuple(nic.addresses),
        routes=tuple(
            StolenRoute(destination=each.destination, gateway=each.gateway, source=each.source, metric=each.metric)
            for each in nic.routes
        ),
        pci_address=nic.pci_address,
        kernel_driver=nic.kernel_driver,
    )
