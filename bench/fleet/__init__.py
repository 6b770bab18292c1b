"""The fleet beside the public collection: the same containers, wanted by both, on labs without any.

`python -m bench.fleet` counts the calls that each makes to the API and the seconds that each takes.
"""
