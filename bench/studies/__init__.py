"""A study's name enters; its trained models, samples, scores and answers leave.

Uses routing, training, generation, quality, claims, data, records and machine.
"""
