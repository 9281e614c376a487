"""Checkpoint files enter and leave, in the published layouts and in the project's own.

Uses ablations and the modules directly in dydit.
"""
