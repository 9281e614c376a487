"""Images enter; the features of a named extractor leave.

Uses data, records and machine.
"""

from bench.quality.features.extraction import BATCH_SIZE
from bench.quality.features.extractors import EXTRACTORS, ExtractorSpec, Weights, extractor

__all__ = ["BATCH_SIZE", "EXTRACTORS", "ExtractorSpec", "Weights", "extractor"]
