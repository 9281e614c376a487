"""The name of a factory enters, `package.module:factory`; anyone's network leaves, checked, as the harnesses call it.

Uses machine. What such a network must have, and may have, is told in docs/compare-your-method.md.
"""

from bench.models.candidate import Candidate, ImageShape, OwnShape, SamplingModel, begin_run, check_same_images
from bench.models.loading import candidate_of, is_factory, load_candidate

__all__ = [
    "Candidate",
    "ImageShape",
    "OwnShape",
    "SamplingModel",
    "begin_run",
    "candidate_of",
    "check_same_images",
    "is_factory",
    "load_candidate",
]
