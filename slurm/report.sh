#!/bin/bash
# The report on a profile, with whatever is recorded when the tasks have ended.
set -u
unset HF_TOKEN HUGGING_FACE_HUB_TOKEN
echo "--- job $SLURM_JOB_ID on ${SLURMD_NODENAME:-?}, profile $1, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -Is)"
"$LOTTERY_PYTHON" -m lottery worker "$1" report
status=$?
echo "--- exit $status, $(date -Is)"
exit $status
