"""Runs and published tables enter; figures leave, as drawings that follow the page's colours, with data and words.

Uses claims, records and the runs of bench.report.
"""
