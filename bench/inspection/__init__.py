"""A file or folder enters; what it is leaves, as facts for a bug report.

Uses quality, data and records.
"""
