#!/usr/bin/env bash
# Test on GPUS processes of this node: one per GPU, or over gloo where there is no GPU.
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi

CONFIG=$1
CHECKPOINT=$2
GPUS=$3
TOOLS=$(dirname "$(realpath "$0")")

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${PORT:-29500}" \
    --nproc-per-node "$GPUS" \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
