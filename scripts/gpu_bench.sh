#!/usr/bin/env bash
# Times everything on one GPU in under 9 minutes: gpu_bench.sh OUT_DIR
# Needs torch, numpy and pandas alone; run it from anywhere in a checkout. Each part is bounded and leaves its tables.
# All three arithmetics are covered: bf16, fp32 with TF32 products (the papers' setting), and fp32.
set -uo pipefail
out=$(realpath -m "${1:?usage: gpu_bench.sh OUT_DIR}")
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
failed=0

part() { # name, seconds it may take, arguments of `python -m bench latency`
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$python" -m bench latency --device cuda --out "$out/$name" "$@" || { failed=1; echo "$name: failed or cut off"; }
}

part xl-bf16 110 --models DiT-XL/2 --dtype bf16 --batch 32 64 --profiles even --seconds 7
part xl-tf32 60 --models DiT-XL/2 --lambdas 0.5 --tf32 --batch 32 --profiles even --seconds 6
part xl-fp32 50 --models DiT-XL/2 --lambdas 0.5 --batch 16 --profiles even --seconds 6
part small-bf16 70 --models DiT-S/2 DiT-B/2 --dtype bf16 --batch 32 128 --profiles even --seconds 4
part profiles-bf16 50 --models DiT-XL/2 --lambdas 0.5 --dtype bf16 --batch 32 --seconds 6
part batch1-graphs 65 --models DiT-S/2 DiT-B/2 DiT-XL/2 --lambdas 0.5 --dtype bf16 --batch 1 4 --profiles even --graphs --seconds 3
part xl-512 40 --models DiT-XL/2 --lambdas 0.5 --dtype bf16 --batch 8 --resolution 512 --profiles even --seconds 5
part parts-xl 30 --models DiT-XL/2 --lambdas 0.5 --dtype bf16 --batch 32 --profiles even --profile
part compiled-b 65 --models DiT-B/2 --lambdas 0.5 --dtype bf16 --batch 32 --profiles even --seconds 4 \
    --alternatives torch.compile torch.compile-static
exit "$failed"
