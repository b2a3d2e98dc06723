#!/bin/sh
# Runs every fuzz test below a folder for the same time:
#   fuzz.sh 1m [FOLDER [more flags of go test]]
# A number of inputs, such as 20000x, works as well. Go sometimes reports the end of the time as a
# failure ("context deadline exceeded", golang.org/issue/75804); a number of inputs avoids that.
# Inputs that fail are stored in testdata/fuzz of the package, as permanent tests. Inputs that only
# reach new code stay in Go's cache.
set -u
time=${1:?how long for each, such as 30s or 20000x}
folder=${2:-.}
shift; [ $# -eq 0 ] || shift
status=0
for file in $(grep -rl --include='*_test.go' --exclude-dir=node_modules '^func Fuzz' "$folder" | sort); do
	package=./$(dirname "$file")
	for name in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		amount=$time
		# A comment above a test marks it if its inputs take milliseconds.
		case $time in
		*x) grep -B1 "^func $name(" "$file" | grep -q 'fuzz.sh: slow' && amount=$((${time%x} / 100))x ;;
		esac
		echo "== $name in $package for $amount" >&2
		go test "$@" -run '^$' -fuzz "^$name\$" -fuzztime "$amount" "$package" || status=1
	done
done
exit $status
