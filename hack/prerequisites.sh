#!/bin/sh
# Checks what a build or a test needs beyond Go and make. Reports what is missing,
# and installs it from Debian's packages if it has permission.
#   prerequisites.sh [root] [gcc] [npm] [qemu] [qemu-user]
set -eu
packages=""
for need in "$@"; do
	case $need in
	root)
		[ "$(id -u)" = 0 ] || { echo "error: this makes network namespaces and needs root: run it as root (sudo make ...)" >&2; exit 1; } ;;
	gcc) # the race detector is a C library
		command -v gcc >/dev/null || packages="$packages gcc libc6-dev" ;;
	npm)
		command -v npm >/dev/null || packages="$packages npm" ;;
	qemu) # and depmod, for the modules of the kernels that it boots
		command -v qemu-system-x86_64 >/dev/null || packages="$packages qemu-system-x86"
		PATH=$PATH:/usr/sbin:/sbin command -v depmod >/dev/null || packages="$packages kmod" ;;
	qemu-user) # runs programs for arm64
		command -v qemu-aarch64-static >/dev/null || packages="$packages qemu-user-static" ;;
	esac
done
[ -n "$packages" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "error: missing:$packages. This is not a Debian machine: install them with its own package manager" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "error: missing:$packages. Run: sudo apt-get install$packages" >&2
	exit 1
fi
echo "installing$packages (Debian packages, about a minute)" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# shellcheck disable=SC2086 # a list of words
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends $packages; } >"$log" 2>&1; then
	cat "$log" >&2
	echo "error: apt-get could not install$packages (its output is above)" >&2
	exit 1
fi
rm -f "$log"
