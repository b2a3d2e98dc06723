#!/bin/sh
# Runs grades of the test suite, one after the other, and prints the events of
# `go test -json` for gotestsum to read; see `make test`.
#   unit     every package, race detector, no root, no API server
#   api      tests that talk to a real API server (KUBEBUILDER_ASSETS)
#   kernel   tests in network namespaces of their own (root)
#   sandbox  stories on a whole cluster (root)
set -u
status=0
go=go
for grade in "$@"; do
	echo "== $grade tests" >&2
	case $grade in
	unit)    env -u KUBEBUILDER_ASSETS "$go" test -json -race ./... ;;
	api)     "$go" test -json -race -run 'API' $("$go" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | while read -r d; do ls "$d"/*_api_test.go >/dev/null 2>&1 && echo "$d"; done) ;;
	kernel)  PODID_TEST_KERNEL=1 "$go" test -json -race $("$go" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./... | while read -r d; do ls "$d"/*_kernel_test.go >/dev/null 2>&1 && echo "$d"; done) ;;
	sandbox) PODID_TEST_SANDBOX=1 "$go" test -json -timeout 40m ./test/scenario/... ;;
	*) echo "error: no test grade $grade: unit, api, kernel or sandbox" >&2; exit 2 ;;
	esac || status=1
done
exit $status
