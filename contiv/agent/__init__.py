"""The agent of a node: nothing but wiring. ``main`` composes, the rest are its edges.

::

    etcd ─▶ feed ─▶ controller ─▶ handlers ─▶ scheduler ─▶ VPP, Linux
    contiv-cni ─▶ cni ─▶ ┘   rest: what netctl and Prometheus ask   status: what the agent tells the cluster
"""
