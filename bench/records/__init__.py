"""What a run leaves and goes on from: environment, tables, run record, run directory, checksums.

Uses machine.
"""
