"""The networks of the paper's Table 3 and the controls, by name.

Uses the modules of dydit itself alone.
"""
