"""Desired VPP objects become binary API calls here, one descriptor a kind of object.

``descriptors(api)`` gives them, wired to one index of interfaces. Nothing here decides what should exist or when
a call is made: that is the scheduler's. ``base`` has what they share.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from contiv.scheduler.descriptor import Descriptor
from contiv.vpp.descriptors.acl import AccessLists, AclDescriptor, AclInterfaceDescriptor
from contiv.vpp.descriptors.base import Api, Interfaces
from contiv.vpp.descriptors.cnat import (
    CnatHairpinDescriptor,
    CnatHairpinsDescriptor,
    CnatInterfaceDescriptor,
    CnatSettingsDescriptor,
    Listed,
)
from contiv.vpp.descriptors.cnat_translation import CnatTranslationDescriptor
from contiv.vpp.descriptors.dhcp import DhcpClientDescriptor
from contiv.vpp.descriptors.diversion import DiversionDescriptor
from contiv.vpp.descriptors.fib import FibSource, NeighbourDescriptor, RouteDescriptor, VrfDescriptor
from contiv.vpp.descriptors.interface import Hurry, InterfaceDescriptor
from contiv.vpp.descriptors.l2 import BridgeDomainDescriptor, BridgeMemberDescriptor, L2FibDescriptor
from contiv.vpp.descriptors.layer3 import (
    AddressDescriptor,
    AdminUpDescriptor,
    InterfaceVrfDescriptor,
    UnnumberedDescriptor,
)
from contiv.vpp.descriptors.nat import (
    NatAddressDescriptor,
    NatIdentityDescriptor,
    NatInterfaceDescriptor,
    NatSettingsDescriptor,
)
from contiv.vpp.descriptors.nat_mapping import NatMappingDescriptor
from contiv.vpp.descriptors.punt import PuntRedirectDescriptor

__all__ = ["Api", "FibSource", "Interfaces", "cnat_descriptors", "descriptors", "nat_descriptors"]


def descriptors(
    api: Api, interfaces: Interfaces, source: FibSource, *, hurry: Hurry = nullcontext
) -> tuple[Descriptor[Any, Any], ...]:
    """One of each kind but those of address translation, for one VPP."""
    lists = AccessLists()
    return (
        InterfaceDescriptor(api, interfaces, hurry),
        AdminUpDescriptor(api, interfaces),
        AddressDescriptor(api, interfaces),
        UnnumberedDescriptor(api, interfaces),
        DhcpClientDescriptor(api, interfaces),
        PuntRedirectDescriptor(api, interfaces),
        VrfDescriptor(api),
        InterfaceVrfDescriptor(api, interfaces),
        DiversionDescriptor(api, interfaces),
        RouteDescriptor(api, interfaces, source),
        NeighbourDescriptor(api, interfaces),
        BridgeDomainDescriptor(api, interfaces),
        BridgeMemberDescriptor(api, interfaces),
        L2FibDescriptor(api, interfaces),
        AclDescriptor(api, lists),
        AclInterfaceDescriptor(api, interfaces, lists),
    )


def nat_descriptors(api: Api, interfaces: Interfaces) -> tuple[Descriptor[Any, Any], ...]:
    """One of each kind of NAT44-ED's, for agents that translate services with it."""
    return (
        NatSettingsDescriptor(api),
        NatInterfaceDescriptor(api, interfaces),
        NatAddressDescriptor(api),
        NatMappingDescriptor(api),
        NatIdentityDescriptor(api),
    )


def cnat_descriptors(api: Api, interfaces: Interfaces) -> tuple[Descriptor[Any, Any], ...]:
    """One of each kind of CNAT's, likewise."""
    listed = Listed(api)
    return (
        CnatSettingsDescriptor(api, listed),
        CnatInterfaceDescriptor(api, interfaces, listed),
        CnatHairpinsDescriptor(api, listed),
        CnatHairpinDescriptor(api, listed),
        CnatTranslationDescriptor(api, listed),
    )
