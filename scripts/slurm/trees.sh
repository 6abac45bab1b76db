#!/usr/bin/env bash
# Submits the growth of a tree to Slurm: an array with one part of the tree to a task, then a job that joins the parts when all are grown.
#
#   scripts/slurm/trees.sh RECIPE --parts N [--at-once K] [--output DIR] [--dry-run] [options for perennial generate] [-- options for sbatch]
#
#   --parts N       parts of the tree, each a task of the array (one GPU or one CPU node keeps busy with one)
#   --at-once K     tasks that run at once at most
#   --output DIR    folder to write, in place of the recipe's, on a file system that all nodes share; logs go to DIR/logs/
#   --dry-run       print the sbatch lines, submit nothing
#
# Partition, account, time and GPUs come after --, for both jobs:
#
#   scripts/slurm/trees.sh RECIPE --parts 8 --output DIR -- --partition=NAME --time=12:00:00 --gpus=1
#
# A task goes on where it stopped when it is preempted, or requeues itself before its time is up. Submitted again, the same command
# grows what is missing.
set -euo pipefail

at_once=''
take_option() {
  [[ $1 == --at-once ]] || fail "$1 is for scripts/trees.sh; on Slurm say how many GPUs a task gets after --: -- --gpus=2"
  check_number "$1" "$2"; at_once=$2
}
# shellcheck source=scripts/tree_arguments.sh
source "$(dirname "$0")/../tree_arguments.sh"
[[ -n $parts ]] || fail "--parts is missing; say into how many tasks the tree is divided: --parts 8"
for word in "${further[@]}"; do
  [[ $word != @(-a*|--array*) ]] || fail "$word: the array follows from --parts; --at-once K limits how many tasks run at once"
done

job=("$root/scripts/slurm/trees.sbatch" "$output" "$parts" "${generate[@]}")
grow=(sbatch --parsable --job-name=trees --array="0-$((parts - 1))${at_once:+%$at_once}" --output="$output/logs/part-%a.%A.log")
merge=(sbatch --parsable --job-name=trees-merge --kill-on-invalid-dep=yes --output="$output/logs/merge.%j.log")
if [[ -n $dry_run ]]; then
  print_command "${grow[@]}" "${further[@]}" "${job[@]}"
  ((parts == 1)) || print_command "${merge[@]}" --dependency=afterok:ARRAY_ID "${further[@]}" "${job[@]}"
  exit 0
fi
command -v sbatch >/dev/null || fail "there is no sbatch here; run this where Slurm is installed, or scripts/trees.sh on one machine"
mkdir -p "$output/logs"
array_id=$("${grow[@]}" "${further[@]}" "${job[@]}")
array_id=${array_id%%;*} # on federated clusters the cluster's name follows
echo "array $array_id grows parts 0 to $((parts - 1)); logs: $output/logs/part-*.$array_id.log"
((parts > 1)) || exit 0
merge_id=$("${merge[@]}" --dependency="afterok:$array_id" "${further[@]}" "${job[@]}")
echo "job ${merge_id%%;*} joins them when all are grown; log: $output/logs/merge.${merge_id%%;*}.log"
