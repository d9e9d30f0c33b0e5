"""STN, "steal the NIC": a node with one NIC lends it to the vswitch and gets it back whatever happens.

::

    contiv stn (daemon) ── gRPC, Unix socket ── contiv init (may it be stolen?), contiv agent (steal, confirm)
        theft    takes a NIC from the kernel and gives it back, each step recorded first (journal)
        keeper   when to give back: no confirmed vswitch for longer than the grace time
"""
