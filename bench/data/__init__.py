"""Images enter by data set name, folder or file; an image set leaves: uint8 (3, H, W) each, with labels.

Uses records and machine.
"""
