#!/bin/sh
# Install the Debian packages that volsvc (runtime) or its tests (test) need; as an ordinary
# user, say which are missing.  Does nothing when they are there.
set -eu

need_runtime="python3-venv:venv qemu-storage-daemon:qemu-system-common qemu-img:qemu-utils mkfs.ext4:e2fsprogs"
need_test="$need_runtime mkfs.xfs:xfsprogs losetup:mount"

case "${1:-runtime}" in
    runtime) wanted=$need_runtime ;;
    test) wanted=$need_test ;;
    *) echo "usage: $0 runtime|test" >&2; exit 2 ;;
esac

PATH=$PATH:/usr/sbin:/sbin
missing=""
for pair in $wanted; do
    tool=${pair%%:*}
    package=${pair#*:}
    if [ "$package" = venv ]; then
        "${PYTHON:-python3}" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
    else
        command -v "$tool" >/dev/null 2>&1 || missing="$missing $package"
    fi
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    { apt-get -qq update && apt-get -qq -y install --no-install-recommends $missing; } >/dev/null
else
    echo "These Debian packages are missing; install them, then try again:" >&2
    echo "    sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
