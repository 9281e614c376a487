"""Networks and checkpoints enter; multiply-adds, claimed and executed, leave.

Uses claims, records and machine.
"""
