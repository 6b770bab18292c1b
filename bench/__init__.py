"""The bench: Corral beside its peers, measured in one run.

Nothing here is part of the product, and nothing of the product imports it.
"""
