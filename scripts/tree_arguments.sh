# shellcheck shell=bash disable=SC2034
# The command line that scripts/trees.sh and scripts/slurm/trees.sh share; both source this file.
#
# From RECIPE [--output DIR] [--parts N] [--dry-run] [other options] [-- further words] it sets output, parts (empty when not given),
# dry_run, further (the words after --), and generate: the command that grows the tree. take_option, which the sourcing script defines, may
# set aside options of its own.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${0#"$root/"}
export PYTHONSAFEPATH=1

fail() { echo "$name: $*" >&2; exit 2; }
print_command() {
  local word words=()
  for word; do [[ $word =~ ^[[:alnum:]_./:=,%@+-]+$ ]] && words+=("$word") || words+=("$(printf '%q' "$word")"); done
  echo "${words[*]}"
}
check_number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1: got '$2', expected a whole number from 1"; }
print_help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

case ${1:-} in
  -h | --help) print_help; exit 0 ;;
  '' | -*) fail "the recipe comes first, got '${1:-}'; $name -h says more" ;;
esac
recipe=$1 output='' parts='' dry_run='' options=() further=()
shift
[[ -f $recipe ]] || fail "recipe $recipe does not exist; check the path (it is relative to the folder that you are in)"
while (($#)); do
  case $1 in
    -h | --help) print_help; exit 0 ;;
    --dry-run) dry_run=1 ;;
    --output=* | --parts=* | --at-once=* | --gpus-per-part=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    --part | --part=* | --merge) fail "$1 is for perennial generate; this script deals the parts out itself: --parts N" ;;
    --output | --parts | --at-once | --gpus-per-part)
      (($# > 1)) || fail "$1 has no value"
      case $1 in
        --output) output=$2 ;;
        --parts) check_number "$1" "$2"; parts=$2 ;;
        *) take_option "$1" "$2" ;;
      esac
      shift ;;
    --) further=("${@:2}"); break ;;
    *) options+=("$1") ;;
  esac
  shift
done

# A container or an environment of one's own goes into one variable: PERENNIAL_PYTHON="apptainer exec --nv image.sif python".
python=(python)
[[ ! -x $root/.venv/bin/python ]] || python=("$root/.venv/bin/python")
[[ -z ${PERENNIAL_PYTHON:-} ]] || read -ra python <<<"$PERENNIAL_PYTHON"
find_output='import sys, yaml; print(yaml.safe_load(open(sys.argv[1])).get("output") or "")'
[[ -n $output ]] || output=$("${python[@]}" -c "$find_output" "$recipe" 2>/dev/null) || true
[[ -n $output ]] || fail "found no folder to write in $recipe; add it to the recipe as output, or give --output DIR"
generate=("${python[@]}" -m train generate "$recipe" --output "$output" "${options[@]}")
