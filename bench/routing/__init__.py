"""A checkpoint enters; what its routers learned leaves, as arrays, tables, figures and a description.

Uses generation, records and machine.
"""
