"""Data sets by name, from the hub or from files: what each holds, and how it is opened.

Uses data, records and machine.
"""
