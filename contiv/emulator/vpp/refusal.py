"""Refusals: what the emulated VPP answers with a negative retval, by VPP's own names of the numbers."""

from __future__ import annotations

from contiv.errors import ContivError
from contiv.vpp.errors import RETVALS


class Refusal(ContivError):
    """A request that VPP refuses; ``name`` is VPP's name of the reason (``INVALID_SW_IF_INDEX``)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
        self.retval = RETVALS[name]
