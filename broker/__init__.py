"""The broker daemon: accepts tasks, keeps them durably, hands each to the best worker.

Imports `corral`, never `worker`. The pure mind is `broker.core`; sockets, disk and keys stand
around it.
"""
