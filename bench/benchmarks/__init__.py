"""The timed benchmarks of pytest-benchmark, one module for each subject.

Uses every room but commands.
"""
