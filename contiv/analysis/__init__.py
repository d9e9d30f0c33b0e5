"""What a cluster's policies let through, found out without a data plane.

::

    manifests.py, live.py (where objects come from) ─▶ cluster.py (who is where, with which address)
        ─▶ tables.py (each node's access lists, by contiv.policy) ─▶ reach.py (packets through them)
        ─▶ explain.py, difference.py ─▶ contiv.cli (tables, JSON, dot, CSV)

There is no second reading of policies here: every answer is the verdict of the very lists that the agents would
program, evaluated by the kernel that wrote them. The command line (``contiv connectivity``, ``contiv explain``) is the
next door; docs/connectivity.md is for its users.
"""
