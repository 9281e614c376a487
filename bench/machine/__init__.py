"""The machine at hand: devices, threads, timing, memory, processes and progress.

Uses no other room of bench.
"""
