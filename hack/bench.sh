#!/bin/sh
# Measures the speed of the product (docs/benchmarks.md) with the programs in bin/, and prints a table.
#   hack/bench.sh mic [-h] [-only ROW] [-huge] …    MIC at a real API server, with nodes and pods that only exist there
#   hack/bench.sh nmi [-h] [-only ROW] …            NMI on its own node, with requests through the real redirect
#   hack/bench.sh pods [-h] [-only PART] …          real pods in a sandbox: first tokens, NMI under load
#   hack/bench.sh                                   all three
# All other arguments go to the benchmark program; `make bench ARGS="mic -only burst"` passes them, too.
set -eu
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/podid
export KUBEBUILDER_ASSETS="${KUBEBUILDER_ASSETS:-$cache/assets}" PODID_KUBERNETES=source # as make does

case ${1-} in
-h | --help)
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
	exit
	;;
'' | mic | nmi | pods) ;;
*)
	echo "bench: nothing to measure: use hack/bench.sh mic, nmi or pods (-h for help)" >&2
	exit 2
	;;
esac
CGO_ENABLED=0 go build -trimpath -o "$cache/bench" ./test/bench
[ $# -eq 0 ] || exec "$cache/bench" "$@"
status=0
for what in mic nmi pods; do
	"$cache/bench" "$what" || status=$?
done
exit $status
