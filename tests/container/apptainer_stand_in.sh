#!/bin/bash
# apptainer exec|run [--containall] [--bind PATH:PATH[:ro]] [--pwd FOLDER] FILE.sif WORD ...
# By podman, with the image whose name stands in FILE.sif: as the caller, with his variables, on a read-only
# root. His home is not there, and no network.
set -euo pipefail
case $1 in
  exec) script='. /.singularity.d/environment; exec "$@"' ;;
  run) script='. /.singularity.d/environment; . /.singularity.d/runscript' ;;
esac
shift
options=(--env-host)
while [[ $1 == --* ]]; do
  case $1 in
    --containall) options=(); shift ;;
    --bind=*) options+=("--volume=${1#--bind=}"); shift ;;
    --bind) options+=("--volume=$2"); shift 2 ;;
    --pwd) options+=("--workdir=$2"); shift 2 ;;
    *) echo "unknown option $1" >&2; exit 255 ;;
  esac
done
file=$1; shift
exec podman run --rm --network=none --read-only --tmpfs=/tmp --user=0:0 "${options[@]}" \
  --env "APPTAINER_CONTAINER=$(realpath "$file")" "$(cat "$file")" sh -c "$script" sh "$@"
