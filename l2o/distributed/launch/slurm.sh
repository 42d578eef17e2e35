#!/bin/bash
# Meta-training on a Slurm cluster: Ray on every node of the job, the driver on the first.
#
#   sbatch l2o/distributed/launch/slurm.sh --rule mlp --estimator pes --workers 60 --run ~/runs/mlp
#
# The same command again goes on from the last checkpoint (#SBATCH --requeue does so by itself).
#SBATCH --job-name=l2o
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

export OMP_NUM_THREADS=1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # of this job alone

run=runs/meta-train
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
        --run) j=$((i + 1)); run=${!j} ;;
        --run=*) run=${!i#--run=} ;;
    esac
done
if compgen -G "$run/checkpoints/*.safetensors" > /dev/null; then
    command=(l2o meta-train --resume "$run")
else
    command=(l2o meta-train "$@" --address auto)
fi

# the token in the home folder, which nodes share, lets only this user's processes join
ray get-auth-token --generate > /dev/null
srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_NNODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- "${command[@]}"
