"""The worker daemon: an agent that registers one machine and runs attempts in child processes.

Imports `corral`, never `broker`. `worker.core` is the pure session machine; the rest acts.
"""
