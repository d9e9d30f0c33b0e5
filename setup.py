"""Build of the compiled kernels: every ``contiv/_fastpath/<name>.pyx`` becomes one extension module.

Beside them one plain library, ``contiv/vpp/epoll_guard``, which VPP is started with; it knows neither Python nor us.

``csrc/`` holds the C11 that does the work and knows nothing of Python; it is compiled into each extension that
names it in ``KERNELS``. Build variants are environment variables:

* ``CONTIV_SANITIZE=1``: AddressSanitizer and UndefinedBehaviorSanitizer, ``-O1 -g``.
* ``CONTIV_WERROR=1``: warnings of our own C are errors (the lint step sets it).
"""

import os
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# extension module -> the files of csrc/ that it is linked with
KERNELS: dict[str, list[str]] = {
    "acl": ["acl.c", "acl_match.c", "acl_set.c", "blake2b.c", "codec.c"],
    "codec": ["codec.c"],
    "arrays": ["bulk.c", "codec.c"],
    "channel": ["codec.c"],
    "hashing": ["hashing.c"],
    "segment": ["stats.c"],
    "shm": ["codec.c", "shm.c"],
}

SANITIZE = bool(os.environ.get("CONTIV_SANITIZE"))
CFLAGS = ["-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden"]
CFLAGS += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"] if SANITIZE else ["-O3"]
LDFLAGS = ["-fsanitize=address,undefined"] if SANITIZE else []


def extension(name: str, sources: list[str]) -> Extension:
    """The extension ``contiv._fastpath.<name>``, with Cython's own noise silenced."""
    return Extension(
        f"contiv._fastpath.{name}",
        [f"contiv/_fastpath/{name}.pyx", *(f"csrc/{source}" for source in sources)],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        depends=[str(header) for header in Path("csrc").glob("*.h")],
        extra_compile_args=[*CFLAGS, "-Wno-unused-function", "-Wno-sign-compare"],
        extra_link_args=LDFLAGS,
        libraries=["dl", "pthread"],
    )


# no module: VPP loads it (LD_PRELOAD), so it is never built with sanitizers
EPOLL_GUARD = Extension(
    "contiv.vpp.epoll_guard",
    ["csrc/vpp_epoll_guard.c"],
    extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-O2"],
    libraries=["dl"],
)

setup(
    ext_modules=cythonize(
        [*(extension(name, sources) for name, sources in KERNELS.items()), EPOLL_GUARD],
        compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False},
        build_dir="build/cython",
    )
)
