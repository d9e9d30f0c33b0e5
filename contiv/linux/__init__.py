"""The only user of netlink, of ethtool's ioctls and of network namespaces.

In: ``contiv.model.linux`` values, by way of the descriptors. Out: a kernel that agrees with them. Nothing
here knows VPP or Kubernetes. ``netns`` owns namespaces and the threads that enter them, ``netlink`` one
conversation with the kernel; ``links``, ``addresses``, ``routes``, ``neighbours``, ``offloads`` and ``ipv6``
are the verbs, one noun a file, and ``ports`` a question; ``descriptors`` is what the scheduler calls. Everything is
idempotent: what is already so, or already gone, succeeds.
"""
