"""Features enter; the metrics leave, in float64, by the ADM protocol.

Every function takes arrays and returns floats; nothing here knows images or networks. The conventions are those of the
ADM evaluator: covariance with N - 1, splits in the order of the samples, k = 3.

| metric | value | interval |
| --- | --- | --- |
| FID, sFID | `frechet.fid`, `frechet.FidReference` | `intervals.bootstrap_fid`, `intervals.bootstrap_fid_ratio` |
| FID of infinitely many images | `fid_infinity.fid_infinity` | in its result |
| Inception Score | `inception_score.inception_score` | `intervals.bootstrap_inception_score` |
| KID | `kid.kid` | `intervals.bootstrap_kid` |
| precision, recall | `precision_recall.precision_recall` | `intervals.bootstrap_share` |
"""
