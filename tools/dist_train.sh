#!/usr/bin/env bash
# Train on GPUS processes of this node: one per GPU, or over gloo where there is no GPU.
#   tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# Several nodes: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each of them.
set -euo pipefail
if [ $# -lt 2 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi

CONFIG=$1
GPUS=$2
TOOLS=$(dirname "$(realpath "$0")")

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" \
    --node-rank "${NODE_RANK:-0}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" \
    --master-port "${PORT:-29500}" \
    --nproc-per-node "$GPUS" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
