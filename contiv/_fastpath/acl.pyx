# cython: binding=True
"""Access lists, over ``csrc/acl.h``: sets of addresses and ports, what is allowed, tables. ``acl.pyi`` is the contract.

Python's part is small: values come in and go out here, sets and maps are C's from then on. Nothing is ever changed.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.number cimport PyNumber_Index
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

import numpy

from contiv._fastpath.acl_types import Rule, Verdict
from contiv.model.ip import Address, Network

RULE_SIZE = ACL_RULE
DENY, PERMIT, REFLECT = 0, 1, 2
ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
FRAGMENT, TRUNCATED = ACL_FRAGMENT, ACL_TRUNCATED

cdef extern from *:
    """
    /* types of C have no dictionary that can be assigned to from outside */
    static int
    set_class_attribute (PyObject *type, const char *name, PyObject *value)
    {
      int failed = PyDict_SetItemString (((PyTypeObject *) type)->tp_dict, name, value);
      PyType_Modified ((PyTypeObject *) type);
      return failed;
    }
    """
    int set_class_attribute(object, const char *, object) except -1

include "acl_sets.pxi"
include "acl_allowed.pxi"
include "acl_table.pxi"
