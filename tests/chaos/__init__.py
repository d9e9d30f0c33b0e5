"""Chaos: a demo cluster under churn and faults, then the invariants. ``python -m tests.chaos --help``."""
