"""What a cluster's policies let through, found out without a data plane.

::

    manifests.py, live.py (where objects come from) ─▶ cluster.py (who is where, with which address)
        ─▶ services.py (what nodes translate, by contiv.service) ─▶ tables.py (their access lists, by contiv.policy)
        ─▶ reach.py (packets through them), explain.py, trace.py, difference.py ─▶ present.py, contiv.cli

There is no second reading of policies or services here: every answer is the verdict of the very lists and mappings
that the agents would program, evaluated by the kernel that wrote them. The command line (``contiv connectivity``,
``contiv explain``, ``contiv trace``) is the next door; docs/connectivity.md is for its users.
"""
