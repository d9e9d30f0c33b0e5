"""Compiled kernels: thin Cython over ``csrc/``. Import them through ``contiv.fastpath``, never from here."""
