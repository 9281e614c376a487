"""A DyDiT enters; a model that skips what its masks close leaves.

Uses the modules of dydit itself alone.
"""
