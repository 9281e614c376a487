"""Images and a reference enter; FID and the other metrics leave, with intervals.

Uses claims, data, records and machine.
"""
