"""Committed runs enter; the pages that people read leave: the generated parts of README and the index of results/.

Uses studies, claims, records and machine.
"""
