"""The demo cluster: N nodes on one machine, wired by the real chain from Kubernetes object to packet.

A node is a network namespace with its own agent and data plane; etcd, the API server and KSR run once.
Stand-ins replace only what is not this project: kubelet with its runtime (``kubelet``, ``sandbox``, ``cni``),
the scheduler (``placement``) and the wire between the nodes (``wire``). They talk to the API server as
ordinary clients, so a real one serves as well. ``cluster`` puts it together, ``probe`` and ``paths`` measure,
``table`` shows, ``main`` is the command.
"""
