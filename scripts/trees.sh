#!/usr/bin/env bash
# Grows a tree on this machine, one process for each visible GPU or one on the CPU, then joins the parts.
#
#   scripts/trees.sh RECIPE [--output DIR] [--parts N] [--gpus-per-part K] [--dry-run] [options for perennial generate]
#
#   --output DIR         folder to write, in place of the recipe's; logs go to DIR/logs/
#   --parts N            parts of the tree; default: those in DIR, else one for each process; a process grows several one after the other
#   --gpus-per-part K    GPUs that a process sees, such as tree.engine.tensor_parallel of vLLM; default 1
#   --dry-run            print the commands, run none
#
# CUDA_VISIBLE_DEVICES limits the GPUs. Given again, the same command goes on where it stopped.
# Exit codes: 0 done, 1 a part failed (its log is named), 2 the request was wrong, 75 stopped on request, to be continued.
set -euo pipefail
gpus_per_part=1
take_option() { [[ $1 == --gpus-per-part ]] || fail "$1 is for scripts/slurm/trees.sh"; check_number "$1" "$2"; gpus_per_part=$2; }
# shellcheck source=scripts/tree_arguments.sh
source "$(dirname "$0")/tree_arguments.sh"
((${#further[@]} == 0)) || fail "words after -- are for sbatch; scripts/slurm/trees.sh takes them"

shown=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+' | paste -sd, || true)
IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES-$shown}"
places=()
for ((i = 0; i + gpus_per_part <= ${#gpus[@]}; i += gpus_per_part)); do
  places+=("CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpus[*]:i:gpus_per_part}")")
done
((${#gpus[@]} == 0 || ${#places[@]} > 0)) || fail "--gpus-per-part $gpus_per_part: this machine shows ${#gpus[@]} GPUs"
((${#places[@]} > 0)) || places=("PYTHONSAFEPATH=1")
for found in "$output"/parts/*-of-*; do [[ -n $parts || ! -d $found ]] || parts=$((10#${found##*-of-})); done
parts=${parts:-${#places[@]}}

part_command() { command=(env "${places[$1 % ${#places[@]}]}" "${generate[@]}" --part "$1/$parts"); }
for ((part = 0; part < parts; part++)); do part_command "$part"; print_command "${command[@]}"; done
((parts == 1)) || print_command "${generate[@]}" --merge
[[ -z $dry_run ]] || exit 0
((parts > 1)) || exec "${command[@]}"

grow_parts_of() {
  trap 'exit 75' INT
  for ((part = $1; part < parts; part += ${#places[@]})); do
    local log="$output/logs/part-$part.log" code=0
    part_command "$part"
    "${command[@]}" </dev/null >>"$log" 2>&1 || code=$?
    ((code != 0)) || continue
    echo "$name: part $part of $parts failed with exit code $code; the others stop. Its log is $log, which ends: $(tail -n 1 "$log")" >&2
    kill -USR1 $$
    exit "$code"
  done
}
stop() {
  trap '' INT TERM HUP USR1
  kill -INT -- "${workers[@]/#/-}" 2>/dev/null || true
  # Started by nohup or in a script's background, all of it ignores SIGINT; what is committed survives TERM as well.
  { sleep 15; kill -TERM -- "${workers[@]/#/-}"; } 2>/dev/null & last_word=$!
  wait "${workers[@]}" || true
  kill -KILL -- "-$last_word" 2>/dev/null || true
}
trap 'stop; exit 1' USR1
trap 'stop; echo "$name: stopped; the same command goes on from there" >&2; exit 75' INT TERM HUP

mkdir -p "$output/logs"
export TQDM_MININTERVAL=30 # seconds between lines of progress in the logs
workers=()
set -m # a process group for each worker: signals reach all that it started, and SIGINT is not ignored there
for ((place = 0; place < ${#places[@]} && place < parts; place++)); do grow_parts_of "$place" & workers+=("$!"); done
for worker in "${workers[@]}"; do wait "$worker" || { stop; exit 1; }; done
set +m; trap - INT TERM HUP USR1
exec "${generate[@]}" --merge
