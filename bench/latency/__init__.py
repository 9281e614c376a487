"""Networks enter; times of engines that ran in turns leave.

Uses flops, claims, records and machine.
"""
