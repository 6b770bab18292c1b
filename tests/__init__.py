"""The suite, in tiers: unit, sim, integration, chaos, e2e.

A package, so that a test can import what its tier shares, such as `tests.evidence`.
"""
