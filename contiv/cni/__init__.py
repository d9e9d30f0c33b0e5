"""The CNI side of the agent.

::

    container runtime ─exec─▶ contiv-cni (cni/, C) ─gRPC─▶ server.py ─CniHandler─▶ the agent's event loop
                                                              │
                                     convert.py wire ◀─▶ model.py     config.py the configuration's JSON
"""
