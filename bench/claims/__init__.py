"""Published tables and measured values enter; verdicts and summary.csv leave.

Uses records and machine.
"""
