"""A static checkpoint and data enter; a fine-tuned model leaves, resumed to the bit.

Uses generation, data, records and machine.
"""
