"""Methods enter; one table leaves with what each executes and claims, its time, quality and drift, all of them paired.

Uses studies, generation, quality, latency, flops, models, data, records and machine.
"""
