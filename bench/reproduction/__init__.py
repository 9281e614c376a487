"""A tier enters; what it needs and costs, and a verdict for every published number, leave.

Uses every room but commands and benchmarks.
"""
