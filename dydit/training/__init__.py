"""A model, data and a recipe enter; trained weights leave (paper, Section 3.4).

Uses the modules of dydit itself alone.
"""
