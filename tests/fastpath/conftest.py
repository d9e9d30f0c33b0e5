"""Schemas for the codec's tests: an installed VPP's when one is found, and the project's own record."""

from __future__ import annotations

import pytest

from contiv.fastpath import Schema
from contiv.vpp import api


@pytest.fixture(scope="session")
def builtin() -> Schema:
    """The project's record of VPP 26.06."""
    return api.builtin_schema()


@pytest.fixture(scope="session")
def full() -> Schema:
    """Every message of the installed VPP, else the record's."""
    return api.installed_schema() or api.builtin_schema()
