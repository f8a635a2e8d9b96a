#!/bin/bash
# Trains one run on several machines of a Slurm cluster.
#
#   sbatch --nodes 4 deploy/slurm.sh runs/mine --pretrain.steps 20000
#
# The run directory must be on storage that all machines share, and have its tokens (`hornbook
# prepare` and `hornbook tokenize` need no GPU). Slurm warns the job with SIGTERM three minutes before its
# time is over: it saves, ends, and the same command goes on from there.
#
#SBATCH --job-name=hornbook
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=hornbook-%j.log

set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: sbatch deploy/slurm.sh RUN [--pretrain.SETTING VALUE ...]" >&2
  exit 2
fi
run=$1
shift

first_machine=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One torchrun a machine; it starts one process a GPU. A process that dies has all of them start again from
# the last checkpoint, up to three times. `exec` hands Slurm's signals on to torchrun.
exec srun --kill-on-bad-exit=1 python -m torch.distributed.run \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node "$SLURM_GPUS_ON_NODE" \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$first_machine:29500" \
  --max-restarts 3 \
  -m -- hornbook pretrain --run "$run" "$@"
