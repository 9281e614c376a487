"""Networks enter; times of engines that ran in turns leave.

Uses flops, claims, models, records and machine.
"""
