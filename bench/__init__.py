"""Harnesses that measure DyDiT and judge the measurements against the published numbers."""
