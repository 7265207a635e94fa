#!/bin/sh
# The service in the foreground on the embedded default, kept in one directory of the clone.
# usage: tools/run.sh RUN_DIR BIN_DIR
set -eu

mkdir -p "$1"
run_dir=$(cd "$1" && pwd)
conf=$run_dir/cinder.conf
# A socket's whole path has at most 107 bytes, so a deep clone keeps its sockets elsewhere.
short=
if [ ${#run_dir} -gt 50 ]; then
    short=${XDG_RUNTIME_DIR:-/tmp}/volsvc-$(id -u)-$(printf %s "$run_dir" | cksum | cut -d' ' -f1)
    # Others can guess that name, so it must not be somebody else's.
    mkdir -m 0700 -p "$short"
    if [ -L "$short" ] || [ ! -O "$short" ]; then
        echo "$short belongs to somebody else; remove it, or set runtime_path in $conf" >&2
        exit 1
    fi
fi
if [ ! -f "$conf" ]; then
    cat > "$conf" <<CONF
[DEFAULT]
state_path = $run_dir/state
CONF
    if [ -n "$short" ]; then
        echo "runtime_path = $short" >> "$conf"
    fi
fi
echo "configuration: $conf"
exec "$2/volsvc-all" --config-file "$conf" --hints
