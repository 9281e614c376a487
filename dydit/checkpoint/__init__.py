"""Checkpoint files enter and leave, in the published layouts and the project's own.

Uses ablations and the modules of dydit itself.
"""
