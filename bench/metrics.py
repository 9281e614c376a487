"""The quality metrics on given features, in float64, by the ADM protocol; where each is defined, and its interval.

Every function takes arrays and returns floats; nothing here knows images or networks. The conventions are those of the
ADM evaluator: covariance with N - 1, splits in sample order, k = 3.

| metric | value | interval |
| --- | --- | --- |
| FID, sFID | `fid`, `fid_from_statistics`, `FidReference` | `bootstrap_fid`, `bootstrap_fid_ratio` |
| FID of infinitely many images | `fid_infinity` | in its result |
| Inception Score | `inception_score`, as a stream `bench.statistics.ScoreMoments` | `bootstrap_inception_score` |
| KID | `kid` | `bootstrap_kid` |
| precision, recall | `precision_recall`, or the shares of `memberships` | `bootstrap_share` of each membership |
"""

from bench.bootstrap import (
    FidInfinity,
    Interval,
    bootstrap_fid,
    bootstrap_fid_ratio,
    bootstrap_inception_score,
    bootstrap_kid,
    bootstrap_share,
    fid_infinity,
    images_needed,
)
from bench.frechet import FidReference, fid, fid_from_statistics
from bench.kernel import kid
from bench.manifold import Memberships, memberships, precision_recall
from bench.statistics import Array, inception_score

__all__ = [
    "Array",
    "FidInfinity",
    "FidReference",
    "Interval",
    "Memberships",
    "bootstrap_fid",
    "bootstrap_fid_ratio",
    "bootstrap_inception_score",
    "bootstrap_kid",
    "bootstrap_share",
    "fid",
    "fid_from_statistics",
    "fid_infinity",
    "images_needed",
    "inception_score",
    "kid",
    "memberships",
    "precision_recall",
]
