from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConfirmRequest(_message.Message):
    __slots__: list[str] = []
    def __init__(self) -> None: ...

class Error(_message.Message):
    __slots__ = ["text", "try_again"]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TRY_AGAIN_FIELD_NUMBER: _ClassVar[int]
    text: str
    try_again: bool
    def __init__(self, text: _Optional[str] = ..., try_again: bool = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ["interface"]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    interface: str
    def __init__(self, interface: _Optional[str] = ...) -> None: ...

class Nic(_message.Message):
    __slots__ = ["addresses", "interface", "kernel_driver", "mac", "mtu", "pci_address", "routes", "stolen"]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_DRIVER_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    PCI_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    STOLEN_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    interface: str
    kernel_driver: str
    mac: str
    mtu: int
    pci_address: str
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    stolen: bool
    def __init__(self, interface: _Optional[str] = ..., stolen: bool = ..., mac: _Optional[str] = ..., mtu: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping[str, object]]]] = ..., pci_address: _Optional[str] = ..., kernel_driver: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__: list[str] = []
    def __init__(self) -> None: ...

class Reply(_message.Message):
    __slots__ = ["error", "nic"]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NIC_FIELD_NUMBER: _ClassVar[int]
    error: Error
    nic: Nic
    def __init__(self, nic: _Optional[_Union[Nic, _Mapping[str, object]]] = ..., error: _Optional[_Union[Error, _Mapping[str, object]]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ["destination", "gateway", "metric", "source"]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    destination: str
    gateway: str
    metric: int
    source: str
    def __init__(self, destination: _Optional[str] = ..., gateway: _Optional[str] = ..., source: _Optional[str] = ..., metric: _Optional[int] = ...) -> None: ...

class StealRequest(_message.Message):
    __slots__ = ["interface", "vpp_driver", "vpp_socket"]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    VPP_DRIVER_FIELD_NUMBER: _ClassVar[int]
    VPP_SOCKET_FIELD_NUMBER: _ClassVar[int]
    interface: str
    vpp_driver: str
    vpp_socket: str
    def __init__(self, interface: _Optional[str] = ..., vpp_socket: _Optional[str] = ..., vpp_driver: _Optional[str] = ...) -> None: ...
