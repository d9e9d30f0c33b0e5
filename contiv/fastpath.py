"""VPP's binary API at the speed of C: the public face of the compiled kernels.

``Schema.load(source)`` reads a VPP's API definitions; ``schema.encode`` and ``schema.decode`` turn Python values into
its bytes and back. ``contiv.vpp.connect`` is the asyncio client over it.
Errors: ``SchemaError``, ``EncodeError``, ``DecodeError``, all ``contiv.errors.VppError``.
"""

from contiv._fastpath import acl, hashing
from contiv._fastpath.bulk import Columns, Layout, Ragged
from contiv._fastpath.codec import MACAddress, Program
from contiv._fastpath.errors import CodecError, DecodeError, EncodeError, SchemaError
from contiv._fastpath.papi import (
    PapiClient,
    VppEnum,
    VPPIOError,
    VPPRuntimeError,
    VPPValueError,
)
from contiv._fastpath.schema import Field, Lack, Message, Record, Schema
from contiv._fastpath.stats import Ring, Stats, StatsError

__all__ = [
    "CodecError",
    "Columns",
    "DecodeError",
    "EncodeError",
    "Field",
    "Lack",
    "Layout",
    "MACAddress",
    "Message",
    "PapiClient",
    "Program",
    "Ragged",
    "Record",
    "Ring",
    "Schema",
    "SchemaError",
    "Stats",
    "StatsError",
    "VPPIOError",
    "VPPRuntimeError",
    "VPPValueError",
    "VppEnum",
    "acl",
    "hashing",
]
