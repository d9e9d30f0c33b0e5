"""STN's errors."""

from __future__ import annotations

from contiv.errors import ContivError


class StnError(ContivError):
    """A NIC cannot be stolen or given back; the text names it, what is in the way, and the remedy."""


class StnRefusal(StnError):
    """STN will not do it now: a NIC was given back moments ago, or another one is stolen."""


class StnUnreachable(StnError):
    """No daemon answers on the socket."""
