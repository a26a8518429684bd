#!/bin/bash
# One task of a study. `make submit` gives: the profile, and the models of which this task's number in the array picks one.
set -u
profile=$1
shift
models=("$@")
model=${models[$SLURM_ARRAY_TASK_ID]}

# All that is needed was fetched before; no token reaches a job.
unset HF_TOKEN HUGGING_FACE_HUB_TOKEN

echo "--- job ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID on ${SLURMD_NODENAME:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date -Is)"
echo "--- profile $profile, model $model, commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
echo "--- GPU: $(nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2>/dev/null || echo none)"

# A model that several tasks were given is shared by them, trial by trial.
shared=
[ "$(printf '%s\n' "${models[@]}" | grep -cxF -- "$model")" -gt 1 ] && shared=--shared

"$LOTTERY_PYTHON" -m lottery worker "$profile" "$model" $shared &
task=$!

# Slurm warns this script some time before the limit, and with preempt_send_user_signal before it is preempted; the task then stops between
# trials.
warned=
trap 'warned=yes; kill -USR1 $task' USR1
trap 'kill -TERM $task' TERM
while kill -0 $task 2>/dev/null; do wait $task; done
wait $task
status=$?

echo "--- exit $status, $(date -Is)"
if [ -n "$warned" ] && [ $status = 75 ]; then
  echo "--- stopped with trials left; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
