"""A checkpoint enters; images leave, the same from any number of processes.

Uses data, models, records and machine.
"""
