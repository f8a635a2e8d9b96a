#!/bin/bash
# Prepares text on many machines of a Slurm cluster: cleans files in many tasks, finds duplicates in one,
# writes shards in many. The result equals that of `hornbook prepare` on one machine.
#
#   deploy/slurm-prepare.sh --tasks 512 --out /shared/web --config.inputs '[/shared/warc-text]' \
#     --config.preset web --settings '{partition: cpu, time: "20:00:00", mem_per_cpu_gb: 4}'
#
# Run it where `sbatch` works, with `pip install "hornbook[scale,clean]"`. It returns when four jobs are queued,
# each depending on the one before; run again after a failure, it does what is missing. Inputs and --out are
# on storage that all machines share. A file is cleaned by one task: have as many files as tasks, or more.

set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: deploy/slurm-prepare.sh --tasks N --out DIR --config.inputs '[PATH, ...]' [--config.SETTING VALUE ...] --settings '{partition: NAME, time: HH:MM:SS}'" >&2
  exit 2
fi

exec python -c '
import sys
from jsonargparse import ArgumentParser
from hornbook.corpus.scale import prepare_at_scale
from hornbook.errors import HornbookError
parser = ArgumentParser()
parser.add_function_arguments(prepare_at_scale, as_positional=False)
try:
    prepare_at_scale(**parser.instantiate(parser.parse_args()))
except HornbookError as error:
    sys.exit(f"error: {error}")
' --executor slurm "$@"
