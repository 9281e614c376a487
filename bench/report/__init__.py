"""Committed runs enter; the pages that people read leave: the generated parts of README.

Uses studies, claims, records and machine.
"""
