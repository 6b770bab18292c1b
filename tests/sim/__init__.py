"""The deterministic simulation: the real broker in a world of virtual time, network and disk.

One seed makes one history. `world` builds the actors and runs them, `checker` judges what happened
and shares no code with the broker. `python -m tests.sim --seed N` repeats any run.
"""
