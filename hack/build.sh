#!/bin/sh
# go build that reports its progress if it takes longer than two seconds:
#   build.sh WHAT go build [flags] packages
set -u
what=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM

GOFLAGS="$(go env GOFLAGS) -v" "$@" >"$log" 2>&1 &
pid=$!
seconds=0
while sleep 1 && kill -0 "$pid" 2>/dev/null; do
	seconds=$((seconds + 1))
	if [ "$seconds" = 2 ] || [ $((seconds % 10)) = 0 ]; then
		echo "..    build $what: $(wc -l <"$log") packages compiled, $seconds s" >&2
	fi
done
if wait "$pid"; then
	[ "$seconds" -lt 2 ] || echo "ok    build $what ($seconds s)" >&2
else
	status=$?
	tail -n 40 "$log" >&2
	echo "error: could not build $what (the output is above)" >&2
	exit "$status"
fi
