#!/bin/sh
# Runs grades of the test suite one after the other and prints the events of
# `go test -json`, which gotestsum reads; see `make test`.
#   unit     every package with the race detector: no root, no API server
#   api      the packages that also test against a real API server (KUBEBUILDER_ASSETS)
#   kernel   the packages that also test in network namespaces of their own (root)
#   clients  real clients, old and new, against the agent (root; downloads them once)
#   sandbox  stories on a whole cluster (root), and MIC among faults
#   fuzz     the fuzz tests of what hostile pods can reach, for some thousands of inputs
#   planes   the sandbox's stories on each data plane, and with capture inside pods (root; not part of make test)
#   faults   MIC among faults, for long (root; not part of make test)
#   release  a real release, twice, and its programs for arm64 (not part of make test)
set -u

# packages_with PATTERN: the folders that hold a test file of that name.
packages_with() {
	find . -name "*$1" -not -path '*/node_modules/*' -exec dirname {} + | sort -u
}

# Progress goes where the caller specifies (make: its own standard error),
# because gotestsum reports this script's standard error as errors.
: "${PODID_TEST_PROGRESS:=/proc/$$/fd/2}"
[ -w "$PODID_TEST_PROGRESS" ] || PODID_TEST_PROGRESS=/dev/null
export PODID_TEST_PROGRESS
export PODID_KUBERNETES=source # tests never download it

status=0
for grade in "$@"; do
	echo "== $grade tests" >>"$PODID_TEST_PROGRESS"
	# shellcheck disable=SC2046 # lists of words
	case $grade in
	unit)
		env -u KUBEBUILDER_ASSETS go test -json -race ./... || status=1
		(cd hack/release && go test -json ./...) ;;
	api)     go test -json -race $(packages_with _api_test.go) ;;
	kernel)  env -u KUBEBUILDER_ASSETS PODID_TEST_KERNEL=1 go test -json -race -timeout 30m $(packages_with _kernel_test.go) ;;
	clients) PODID_TEST_KERNEL=1 go test -json -count=1 -timeout 20m ./test/conformance/... ;;
	sandbox) PODID_TEST_SANDBOX=1 go test -json -count=1 -p=1 -timeout 40m ./test/faults/... ./test/scenario/... ;;
	fuzz)    hack/fuzz.sh 20000x internal/agent -json 2>>"$PODID_TEST_PROGRESS" ;;
	planes)
		for way in bridge/prefer bridge/wire bridge/require routed/wire routed/prefer routed/require ebpf/prefer ebpf/require; do
			stories=''
			[ "$way" != bridge/prefer ] || stories='TestStories/(the_agents_are_killed|nothing_leaked)' # the others are in the grade sandbox
			PODID_SCENARIO_DATAPLANE=${way%/*} PODID_SCENARIO_CAPTURE=${way#*/} PODID_SCENARIO_KILLS=50 PODID_TEST_SANDBOX=1 \
				go test -json -count=1 -timeout 40m -run "$stories" ./test/scenario/... || status=1
		done ;;
	faults)  PODID_TEST_SANDBOX=1 PODID_FAULTS_LONG=1 go test -json -count=1 -timeout 2h ./test/faults/... ;;
	release) (cd hack/release && PODID_TEST_RELEASE=${PODID_TEST_RELEASE:-1} go test -json -count=1 -timeout 2h ./...) ;;
	*) echo "error: no test grade $grade: unit, api, kernel, clients, sandbox, fuzz, planes, faults or release" >&2; exit 2 ;;
	esac || status=1
done
exit $status
