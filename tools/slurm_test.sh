#!/usr/bin/env bash
# Test under Slurm.
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#       tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi

TOOLS=$(dirname "$(realpath "$0")")
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
read -ra EXTRA <<< "${SRUN_ARGS:-}"

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec srun \
    --partition "$1" \
    --job-name "$2" \
    --gres "gpu:$GPUS_PER_NODE" \
    --ntasks "$GPUS" \
    --ntasks-per-node "$GPUS_PER_NODE" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${EXTRA[@]+"${EXTRA[@]}"} \
    "${PYTHON:-python}" -u "$TOOLS/test.py" "$3" "$4" --launcher slurm "${@:5}"
