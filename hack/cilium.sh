#!/bin/sh
# Makes a folder with Cilium's programs, for `podid sandbox up --dataplane cilium=DIR`:
# builds the agent, the operator and the network plugin from Cilium's Go module, copies
# the source of its BPF programs, and links clang, which compiles those on the nodes.
#   cilium.sh DIR
# The first time it builds some 2,200 Go packages; again, it takes a minute or two.
# VERSION=1.18.4 and CLANG=clang-19 choose others; Cilium needs clang 18 or newer.
set -eu
[ $# = 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
version=${VERSION:-1.18.4}
clang=$(command -v "${CLANG:-clang-19}") || {
	echo "error: no ${CLANG:-clang-19}: run apt-get install ${CLANG:-clang-19}, or name another with CLANG=" >&2
	exit 1
}
mkdir -p "$1"
dir=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

module=github.com/cilium/cilium
(cd "$work" && GO111MODULE=on go mod download "$module@v$version")
cp -r "$(go env GOMODCACHE)/$module@v$version" "$work/source"
chmod -R u+w "$work/source"
cd "$work/source"
# Cilium's fork of apimachinery differs in how policies are written as JSON. Mirrors of Go
# modules may lack it, and then the original has to do.
if ! go mod download k8s.io/apimachinery 2>/dev/null; then
	api=$(go list -m -f '{{.Version}}' k8s.io/api)
	echo "building with k8s.io/apimachinery $api: Cilium's fork of it cannot be had here" >&2
	go mod edit -replace "k8s.io/apimachinery=k8s.io/apimachinery@$api"
fi
build() {
	echo "building $1" >&2
	CGO_ENABLED=0 go build -mod=mod -trimpath -tags "ipam_provider_operator" \
		-ldflags "-s -w -X $module/pkg/version.ciliumVersion=$version" -o "$dir/$1" "./$2"
}
build cilium-cni plugins/cilium-cni
build cilium-agent daemon
build cilium-operator-generic operator
rm -rf "$dir/bpf"
cp -r bpf "$dir/bpf"
ln -sf "$clang" "$dir/clang"
echo "bin/podid sandbox up --dataplane cilium=$dir"
