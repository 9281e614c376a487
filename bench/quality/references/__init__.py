"""A reference's name or images enter; checked statistics leave.

Uses features, metrics, data, records and machine.
"""
