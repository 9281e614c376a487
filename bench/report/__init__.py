"""Runs enter; the pages that people read leave: generated parts of README, the index of results/, the report page.

Uses studies, claims, records and machine.
"""
