"""Delays double to a cap, spread, and start anew after success."""

from __future__ import annotations

import random

from contiv.kube.backoff import Backoff


def test_delays_double_up_to_the_cap_within_the_upper_half():
    backoff = Backoff(first_s=0.1, last_s=1.0, rng=random.Random(1))
    for step in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0):
        assert step / 2 <= backoff.next_s() <= step


def test_success_starts_anew():
    backoff = Backoff(first_s=0.1, last_s=1.0)
    for _ in range(50):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_the_servers_wish_counts_up_to_the_cap():
    backoff = Backoff(first_s=0.1, last_s=5.0)
    assert backoff.next_s(at_least_s=3.0) == 3.0
    assert backoff.next_s(at_least_s=3600.0) == 5.0


def test_a_streak_of_any_length_has_a_delay():
    backoff = Backoff(last_s=2.0)
    backoff.failures = 10**6
    assert 1.0 <= backoff.next_s() <= 2.0
