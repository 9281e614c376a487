"""Two runs, or all runs of a machine, enter; what changed leaves, row by row, with intervals and reasons.

Uses claims, records, machine and the runs of bench.report.
"""
