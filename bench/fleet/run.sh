#!/usr/bin/env bash
# Makes the environment of this bench (.venv-bench-fleet: the PyPI package `ansible`, which carries community.proxmox) when it is
# not there or older than its pins, and runs the bench. `bash bench/fleet/run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/../.."

env=.venv-bench-fleet
pins=bench/fleet/constraints.txt
stamp=$env/.installed

if [[ ! -e $stamp || $pins -nt $stamp || pyproject.toml -nt $stamp ]]; then
    echo "bench: installing the public collections and Corral into $env" >&2
    "${PYTHON:-python3}" -m venv --clear "$env"
    "$env/bin/python" -m pip install -qq --constraint "$pins" pip
    "$env/bin/python" -m pip install -qq --constraint "$pins" --build-constraint constraints.txt --editable '.[fleet,lab]' ansible
    touch "$stamp"
fi

exec "$env/bin/python" -m bench.fleet "$@"
