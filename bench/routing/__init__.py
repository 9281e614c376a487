"""A checkpoint enters; what its routers learned leaves, as arrays, tables, figures and findings.

Uses generation, records and machine.
"""
