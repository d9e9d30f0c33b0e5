"""The configuration of a node: one YAML file, checked whole before anything starts.

Keys are those that users of the original Contiv/VPP know (``contiv.conf``), defaults included; what is new here says
so. Comes in as YAML text, goes out as one frozen ``Config``. Whatever is wrong raises ``ConfigError`` with the
dotted key, the value and what to write instead; nothing is silently ignored, an unknown key neither.
Next in the flow: ``contiv.network.ipam`` carves the subnets, ``contiv.vpp.lifecycle`` renders VPP's startup.conf.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_type_hints

import msgspec
import yaml

from contiv import nodeconfig
from contiv.errors import ConfigError
from contiv.model.ip import BITS, Network
from contiv.nodeconfig import LinkDriver, NodeConfig

NODE_COUNT_MIN: Final = 2
"""Fewer node IDs than this and the prefixes cannot be meant: node 1 plus room to grow."""
POD_ADDRESSES_RESERVED: Final = 4
"""Of each node's pod subnet: the network's own address, the gateway, the NAT loopback and the broadcast address."""
MTU_MIN: Final = 576
"""Every IPv4 host accepts datagrams of this size (RFC 791 section 3.1)."""
MTU_MAX: Final = 9216
VXLAN_OVERHEAD: Final = 50
"""Inner Ethernet 14, outer IPv4 20, UDP 8 and VXLAN 8 bytes (RFC 7348 section 5): what the MTU of the NIC must hold."""
STN_GRACE_MIN_S: Final = 1.0
STN_GRACE_MAX_S: Final = 600.0
CNAT_TIMEOUT_MAX: Final = 1092
"""Minutes: VPP's CNAT keeps seconds in 16 bits (cnat_types.h, cnat_timestamp_t)."""
SOCKET_PATH_MAX: Final = 107
"""Bytes of a Unix socket's path: ``sun_path`` holds 108 with its NUL (unix(7))."""

_VPP_PATH: Final = re.compile(r"[\w./+:@=-]+", re.ASCII)
"""What a path in startup.conf may consist of: VPP's parser ends words at blanks and braces."""
_MEMORY: Final = re.compile(r"[1-9][0-9]*[kKmMgG]?")

Cidr = str
Transport = Literal["vxlan", "nooverlay", "auto"]
"""How packets travel between nodes: in VXLAN, as they are (one layer 2 network), or each pair as its subnets allow."""


class _Section(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """Base of every section: camelCase in the file, snake_case here, unknown keys refused."""


class IpamConfig(_Section, frozen=True, kw_only=True):
    """Subnets. ``*_one_node_prefix_len`` is the prefix length of the share that one node gets."""

    pod_subnet_cidr: Cidr = msgspec.field(default="10.1.0.0/16", name="podSubnetCIDR")
    pod_subnet_one_node_prefix_len: int = 24
    vpp_host_subnet_cidr: Cidr = msgspec.field(default="172.30.0.0/16", name="vppHostSubnetCIDR")
    vpp_host_subnet_one_node_prefix_len: int = 24
    node_interconnect_cidr: Cidr = msgspec.field(default="192.168.16.0/24", name="nodeInterconnectCIDR")
    vxlan_cidr: Cidr = msgspec.field(default="192.168.30.0/24", name="vxlanCIDR")
    service_cidr: Cidr = msgspec.field(default="10.96.0.0/12", name="serviceCIDR")
    node_interconnect_dhcp: bool = msgspec.field(default=False, name="nodeInterconnectDHCP")
    """Main NICs without an ``ip`` of their own ask a DHCP server for one."""
    default_gateway: str = ""
    """The way out of nodes whose own section names none."""


class EtcdConfig(_Section, frozen=True, kw_only=True):
    """How to reach Contiv's own etcd. ``ca_file`` turns TLS on; ``username`` turns authentication on."""

    endpoints: tuple[str, ...] = ("http://127.0.0.1:32379",)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password_file: str = ""


class VppConfig(_Section, frozen=True, kw_only=True):
    """Where VPP is and how much of the machine it takes.

    ``main_heap_size`` in VPP's own notation (``512M``); ``buffers_per_numa`` packet buffers of about 2.5 kB each;
    ``hugepages`` false makes VPP run on pages of 4 kB; ``workers`` threads beside the main one. ``nic_driver`` is the
    driver that a stolen NIC on PCI is passed to, for DPDK; empty leaves it with the kernel, and
    ``Config.link_driver`` opens it.
    """

    dataplane: Literal["auto", "vpp", "emulator"] = "auto"
    prefix: str = ""
    run_dir: str = "/run/vpp"
    main_heap_size: str = "512M"
    buffers_per_numa: int = 16384
    hugepages: bool = False
    workers: int = 0
    nic_driver: Literal["", "vfio-pci", "uio_pci_generic"] = ""


class Config(_Section, frozen=True, kw_only=True):
    """The whole file. Absent sections and keys take the defaults that stand here."""

    ipam_config: IpamConfig = msgspec.field(default_factory=IpamConfig)
    node_config: tuple[NodeConfig, ...] = ()
    crd_node_configuration_disabled: bool = False
    """Whether agents leave the ``NodeConfig`` resources alone; here they count by default, over the file's sections."""
    node_to_node_transport: Transport = "vxlan"
    steal_interface: str = ""
    """The NIC that each node takes from its kernel, where its section does not say otherwise."""
    steal_first_nic: bool = msgspec.field(default=False, name="stealFirstNIC")
    """Take the NIC that the kernel's default route leaves by."""
    link_driver: LinkDriver = "af_packet"
    """What VPP opens NICs by that stay with the kernel, where a node's section does not say otherwise; new here."""
    stn_socket_file: str = "/run/contiv/stn.sock"
    stn_grace_s: float = msgspec.field(default=10.0, name="stnGraceSeconds")
    """How long a stolen NIC may be without a working vswitch before the kernel gets it back; new here."""
    nat_external_traffic: bool = True
    """What pods send out of the cluster leaves with the node's address."""
    service_renderer: Literal["nat44", "cnat", "none"] = "nat44"
    """What translates services: VPP's NAT44-ED, which carries TCP, UDP and ICMP alone, also between pods; its CNAT, in
    development, which has SCTP, cluster IPs of IPv6 and Maglev (docs/decisions/cnat-services.md); or nothing: no
    services and no source NAT, but every protocol between pods."""
    service_local_endpoint_weight: int = 1
    """How many endpoints elsewhere one on the client's node counts for."""
    tcp_nat_session_timeout: int = msgspec.field(default=180, name="tcpNATSessionTimeout")
    other_nat_session_timeout: int = msgspec.field(default=5, name="otherNATSessionTimeout")
    """Minutes after which translations of idle connections are forgotten."""
    periodic_healing_interval_s: int = msgspec.field(default=60, name="periodicHealingIntervalSeconds")
    """How often what VPP and Linux hold is compared with what they should; 0 for never."""
    mtu_size: int = 1450
    pod_interface: Literal["auto", "tap", "veth"] = "auto"
    prepared_interfaces: int = 110
    """Pod interfaces that exist ahead of need where they are veth pairs; kubelet's own default of maxPods."""
    expedite_rcu: bool = msgspec.field(default=True, name="expediteRCU")
    """Whether the kernel's RCU is expedited, machine-wide, while several such interfaces are made: each stops VPP for
    1 ms instead of 40. For nodes with isolated real-time processors: no."""
    vxlan_vni: int = 10
    etcd: EtcdConfig = msgspec.field(default_factory=EtcdConfig)
    vpp: VppConfig = msgspec.field(default_factory=VppConfig)
    run_dir: str = "/run/contiv"
    state_dir: str = "/var/lib/contiv"
    rest_listen: str = "127.0.0.1:9999"

    def node(self, name: str) -> NodeConfig:
        """The section of node ``name``, or the defaults where the file has none for it."""
        for section in self.node_config:
            if section.node_name == name:
                return section
        return NodeConfig(node_name=name)

    def under(self, resource: NodeConfig | None) -> Config:
        """This configuration with a node's resource over its section; itself where there is none."""
        if resource is None:
            return self
        merged = nodeconfig.overlay(resource, self.node(resource.node_name))
        others = tuple(section for section in self.node_config if section.node_name != merged.node_name)
        return msgspec.structs.replace(self, node_config=(*others, merged))

    @property
    def node_defaults(self) -> nodeconfig.Defaults:
        """The cluster-wide keys that a node's section stands before."""
        return nodeconfig.Defaults(
            dhcp=self.ipam_config.node_interconnect_dhcp,
            gateway=self.ipam_config.default_gateway,
            steal_interface=self.steal_interface,
            nat_external=self.nat_external_traffic,
            link_driver=self.link_driver,
        )

    def nics(self, name: str) -> nodeconfig.Nics:
        """The NICs of node ``name``, with the original's precedence of keys."""
        return nodeconfig.resolve(self.node(name), self.node_defaults)


class _Loader(yaml.SafeLoader):
    """YAML as it is safe to read, where a key that stands twice is an error: the first one would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (written, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                line = written.start_mark.line + 1
                raise ConfigError(str(key), f"line {line}", "stands twice in one section", remedy="keep one of them")
        return super().construct_mapping(node, deep)


def load(path: str | None) -> Config:
    """The checked configuration in file ``path``; the defaults when there is none to read."""
    if path is None:
        return parse("")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            "configuration file", path, str(error.strerror), remedy="name a readable file with --config"
        ) from error
    return parse(text)


def parse(text: str) -> Config:
    """The checked configuration that YAML ``text`` describes."""
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError("configuration file", "", f"not YAML: {problem}", remedy="correct the syntax") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError("configuration file", tree, "not a mapping", remedy="write `key: value` lines")
    _refuse_unknown_keys(tree, Config, path=())
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        key = where.strip(".`") or "configuration"
        raise ConfigError(key, _at(tree, key), problem, remedy="give a value of that type") from error
    validate(config)
    return config


def _refuse_unknown_keys(tree: dict[str, Any], section: type[msgspec.Struct], path: tuple[str, ...]) -> None:
    """Walk file and structure side by side, so that an unknown key is named with its path and its nearest kin."""
    hints = get_type_hints(section)
    fields = {field.encode_name: hints[field.name] for field in msgspec.structs.fields(section)}
    for key, value in tree.items():
        dotted = ".".join((*path, str(key)))
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            known = f"did you mean {close[0]}" if close else f"known here: {', '.join(sorted(fields))}"
            raise ConfigError(dotted, value, "unknown key", remedy=known)
        for child, index in _subsections(fields[key], value):
            _refuse_unknown_keys(child[0], child[1], (*path, f"{key}{index}"))


def _subsections(hint: Any, value: Any) -> Iterator[tuple[tuple[dict[str, Any], type[msgspec.Struct]], str]]:
    """The mappings below ``value`` that are sections of their own, with the index to print."""
    if isinstance(value, dict) and isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield (value, hint), ""
    elif isinstance(value, list):
        element = get_args(hint)[0] if get_args(hint) else None
        if isinstance(element, type) and issubclass(element, msgspec.Struct):
            for number, child in enumerate(value):
                if isinstance(child, dict):
                    yield (child, element), f"[{number}]"


def _at(tree: Any, dotted: str) -> Any:
    """The value at a path as msgspec prints it (``a.b[0].c``); None where the path leads nowhere."""
    for part in dotted.replace("[", ".[").split("."):
        if not part:
            continue
        try:
            tree = tree[int(part[1:-1])] if part.startswith("[") else tree[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return tree


def validate(config: Config) -> None:
    """Refuse what msgspec's types cannot: ranges, subnets that overlap, prefixes without room."""
    _check_range("mtuSize", config.mtu_size, MTU_MIN, MTU_MAX)
    _check_range("preparedInterfaces", config.prepared_interfaces, 0, 1000)
    _check_range("vxlanVni", config.vxlan_vni, 1, (1 << 24) - 1)
    _check_range("serviceLocalEndpointWeight", config.service_local_endpoint_weight, 1, 254)
    _check_range("tcpNATSessionTimeout", config.tcp_nat_session_timeout, 1, 7 * 24 * 60)
    _check_range("otherNATSessionTimeout", config.other_nat_session_timeout, 1, 7 * 24 * 60)
    _check_range("periodicHealingIntervalSeconds", config.periodic_healing_interval_s, 0, 24 * 3600)
    _check_range("vpp.buffersPerNuma", config.vpp.buffers_per_numa, 4096, 1 << 22)
    _check_range("vpp.workers", config.vpp.workers, 0, 64)
    if not STN_GRACE_MIN_S <= config.stn_grace_s <= STN_GRACE_MAX_S:
        raise ConfigError(
            "stnGraceSeconds",
            config.stn_grace_s,
            "out of range",
            remedy=f"choose a number from {STN_GRACE_MIN_S:g} to {STN_GRACE_MAX_S:g}",
        )
    if config.service_renderer == "cnat":
        _check_cnat(config)
    networks = subnets(config.ipam_config)
    _check_families(networks)
    _check_overlaps(networks)
    _check_capacity(config.ipam_config, networks)
    _check_nodes(config, networks)
    _check_etcd(config.etcd)
    _check_paths(config)
    if not _MEMORY.fullmatch(config.vpp.main_heap_size):
        raise ConfigError(
            "vpp.mainHeapSize", config.vpp.main_heap_size, "not a size of memory", remedy="write it as 512M or 1G"
        )


def _check_range(key: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(key, value, "out of range", remedy=f"choose a number from {low} to {high}")


def _check_cnat(config: Config) -> None:
    """Refuse what other renderers can and CNAT cannot, or what nobody has tried with it."""
    another = "serviceRenderer: nat44 can"
    if config.vpp.dataplane == "emulator":
        raise ConfigError(
            "serviceRenderer", "cnat", "the emulator has no CNAT", remedy="set vpp.dataplane to vpp, or nat44 here"
        )
    if config.node_to_node_transport != "vxlan":
        raise ConfigError(
            "nodeToNodeTransport", config.node_to_node_transport, "not with serviceRenderer cnat", remedy=another
        )
    if config.service_local_endpoint_weight != 1:
        raise ConfigError(
            "serviceLocalEndpointWeight",
            config.service_local_endpoint_weight,
            "CNAT (serviceRenderer) has no weights",
            remedy=f"leave it at 1; {another}",
        )
    for key, minutes in (
        ("tcpNATSessionTimeout", config.tcp_nat_session_timeout),
        ("otherNATSessionTimeout", config.other_nat_session_timeout),
    ):
        if minutes > CNAT_TIMEOUT_MAX:
            raise ConfigError(
                key,
                minutes,
                "out of range for CNAT (serviceRenderer)",
                remedy=f"choose a number up to {CNAT_TIMEOUT_MAX}; {another} keep them longer",
            )


def subnets(ipam: IpamConfig) -> dict[str, Network]:
    """The subnets of the configuration, parsed, by their dotted keys."""
    texts = {
        "ipamConfig.podSubnetCIDR": ipam.pod_subnet_cidr,
        "ipamConfig.vppHostSubnetCIDR": ipam.vpp_host_subnet_cidr,
        "ipamConfig.nodeInterconnectCIDR": ipam.node_interconnect_cidr,
        "ipamConfig.vxlanCIDR": ipam.vxlan_cidr,
        "ipamConfig.serviceCIDR": ipam.service_cidr,
    }
    return {key: _parse_network(key, text) for key, text in texts.items()}


def _parse_network(key: str, text: str) -> Network:
    try:
        return Network.parse(text)
    except ValueError as error:
        raise ConfigError(
            key, text, f"not a network: {error}", remedy="write it as address/length, as in 10.1.0.0/16"
        ) from error


def _check_families(networks: dict[str, Network]) -> None:
    for key, network in networks.items():
        if network.version != 4:
            raise ConfigError(key, str(network), "not an IPv4 network", remedy="choose an IPv4 network")


def _check_overlaps(networks: dict[str, Network]) -> None:
    for (key, network), (other_key, other) in itertools.combinations(networks.items(), 2):
        if network.overlaps(other):
            raise ConfigError(
                other_key,
                str(other),
                f"overlaps {key} = {network}",
                remedy="choose networks that share no address",
            )


def _check_capacity(ipam: IpamConfig, networks: dict[str, Network]) -> None:
    """Each per-node share must lie inside its network, hold what one node needs, and leave room for nodes."""
    shares = (
        ("ipamConfig.podSubnet", "CIDR", ipam.pod_subnet_one_node_prefix_len, POD_ADDRESSES_RESERVED + 1),
        ("ipamConfig.vppHostSubnet", "CIDR", ipam.vpp_host_subnet_one_node_prefix_len, 4),
    )
    for stem, suffix, length, needed in shares:
        key = f"{stem}OneNodePrefixLen"
        network = networks[stem + suffix]
        bits = BITS[network.version]
        longest = bits - (needed - 1).bit_length()
        shortest = network.length + 1
        if shortest > longest:
            raise ConfigError(
                stem + suffix,
                str(network),
                "cannot be divided among nodes",
                remedy=f"choose a network with a prefix length of at most {longest - 1}",
            )
        if not shortest <= length <= longest:
            raise ConfigError(
                key,
                length,
                f"cannot hold the nodes: {stem}{suffix} is {network}",
                remedy=f"choose a length from {shortest} to {longest}",
            )
    for key in ("ipamConfig.nodeInterconnectCIDR", "ipamConfig.vxlanCIDR"):
        network = networks[key]
        if network.size - 2 < NODE_COUNT_MIN:
            raise ConfigError(
                key, str(network), "cannot hold the nodes", remedy="choose a network of at least 4 addresses"
            )


def node_capacity(config: Config) -> tuple[int, str]:
    """The highest node ID that every subnet can serve, and the dotted key of the one that sets the limit.

    ID ``2**n`` of a pool with ``n`` bits for nodes takes share 0, as in the original.
    """
    ipam = config.ipam_config
    networks = subnets(ipam)
    limits = {
        "ipamConfig.podSubnetOneNodePrefixLen": 1
        << (ipam.pod_subnet_one_node_prefix_len - networks["ipamConfig.podSubnetCIDR"].length),
        "ipamConfig.vppHostSubnetOneNodePrefixLen": 1
        << (ipam.vpp_host_subnet_one_node_prefix_len - networks["ipamConfig.vppHostSubnetCIDR"].length),
        "ipamConfig.nodeInterconnectCIDR": networks["ipamConfig.nodeInterconnectCIDR"].size - 2,
        "ipamConfig.vxlanCIDR": networks["ipamConfig.vxlanCIDR"].size - 2,
    }
    key = min(limits, key=lambda name: limits[name])
    return limits[key], key


def _check_nodes(config: Config, networks: dict[str, Network]) -> None:
    if config.ipam_config.default_gateway:
        nodeconfig.check_gateway("ipamConfig.defaultGateway", config.ipam_config.default_gateway, None)
    if config.steal_interface and config.steal_first_nic:
        raise ConfigError(
            "stealFirstNIC", True, "means nothing beside stealInterface", remedy="keep one of the two keys"
        )
    nodeconfig.check(config.node_config, networks, config.node_defaults)


def _check_etcd(etcd: EtcdConfig) -> None:
    """Options that mean nothing without another one; endpoints and files are checked by who opens them."""
    needs = (
        ("certFile", etcd.cert_file, "keyFile", etcd.key_file),
        ("keyFile", etcd.key_file, "certFile", etcd.cert_file),
        ("certFile", etcd.cert_file, "caFile", etcd.ca_file),
        ("passwordFile", etcd.password_file, "username", etcd.username),
        ("username", etcd.username, "passwordFile", etcd.password_file),
    )
    for key, value, other_key, other in needs:
        if value and not other:
            raise ConfigError(
                f"etcd.{key}", value, f"means nothing without etcd.{other_key}", remedy=f"set etcd.{other_key} too"
            )
    if not etcd.endpoints:
        raise ConfigError("etcd.endpoints", [], "is empty", remedy="name at least one URL")


def _check_paths(config: Config) -> None:
    """Directories are absolute, and the paths of the sockets in them not too long for the kernel."""
    for key, directory in (
        ("runDir", config.run_dir),
        ("stateDir", config.state_dir),
        ("vpp.runDir", config.vpp.run_dir),
        ("stnSocketFile", config.stn_socket_file),
    ):
        if not directory.startswith("/"):
            raise ConfigError(key, directory, "not an absolute path", remedy="begin it with /")
    if not _VPP_PATH.fullmatch(config.vpp.run_dir):
        raise ConfigError(
            "vpp.runDir",
            config.vpp.run_dir,
            "has characters that VPP's startup.conf cannot hold",
            remedy="use letters, digits and . _ - + : @ =",
        )
    sockets = {"runDir": f"{config.run_dir}/cni.sock", "vpp.runDir": f"{config.vpp.run_dir}/stats.sock"}
    sockets["stnSocketFile"] = config.stn_socket_file
    if config.rest_listen.startswith("unix:"):
        sockets["restListen"] = config.rest_listen.removeprefix("unix:")
    for key, path in sockets.items():
        length = len(os.fsencode(path))
        if length > SOCKET_PATH_MAX:
            raise ConfigError(
                key,
                path,
                f"a socket's path of {length} bytes",
                remedy=f"shorten it by {length - SOCKET_PATH_MAX} bytes; the kernel takes {SOCKET_PATH_MAX}",
            )
