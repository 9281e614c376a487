"""Networks and checkpoints enter; multiply-adds, claimed and executed, leave.

Uses claims, models, records and machine.
"""
