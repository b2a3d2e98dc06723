#!/bin/sh
# Runs govulncheck if its database can be reached, and prints a message if not.
set -eu
out=$(mktemp)
if "$1" ./... >"$out" 2>&1; then
	tail -n 3 "$out"
elif grep -qE 'vuln\.go\.dev|fetching vulnerabilities|no such host|dial tcp' "$out"; then
	echo "skipped govulncheck: its database vuln.go.dev cannot be reached from here"
else
	cat "$out"
	rm -f "$out"
	exit 1
fi
rm -f "$out"
