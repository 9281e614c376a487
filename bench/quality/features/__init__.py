"""Images enter; the features of a named extractor leave.

Uses data, records and machine.
"""
