#!/usr/bin/env bash
# Makes the bench's own environment (.venv-bench) when it is not there or older than its pins, sees to a redis-server, and runs
# the bench. `bash bench/run.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/.."

env=.venv-bench
pins=bench/constraints.txt
stamp=$env/.installed
peers=(huey dramatiq taskiq taskiq-redis celery distributed redis pyzmq msgspec psutil py-spy)

say() { echo "bench: $*" >&2; }

if [[ ! -e $stamp || $pins -nt $stamp || pyproject.toml -nt $stamp ]]; then
    say "installing the peers and Corral into $env"
    "${PYTHON:-python3}" -m venv --clear "$env"
    "$env/bin/python" -m pip install -qq --constraint "$pins" pip
    "$env/bin/python" -m pip install -qq --constraint "$pins" --build-constraint constraints.txt --editable '.[gateway]' "${peers[@]}"
    touch "$stamp"
fi

if ! command -v redis-server >/dev/null; then
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        say "redis-server is missing: the peers keep their tasks in it. Type: sudo apt-get install redis-server"
        exit 1
    fi
    say "installing redis-server"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server >&2
fi

exec "$env/bin/python" -m bench "$@"
