#!/bin/sh
# Measures how fast the product is (docs/benchmarks.md) with the programs in bin/, and prints a table. Arguments go to
# the benchmark program: `hack/bench.sh -o json`, `hack/bench.sh -only load`, `hack/bench.sh -h`.
set -eu
cd "$(dirname "$0")/.."
program=${XDG_CACHE_HOME:-$HOME/.cache}/podid/bench
CGO_ENABLED=0 go build -trimpath -o "$program" ./test/bench
exec "$program" "$@"
