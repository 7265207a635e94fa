#!/bin/sh
# The service in the foreground on the embedded default, kept in one directory of the clone.
# usage: tools/run.sh RUN_DIR BIN_DIR
set -eu

mkdir -p "$1"
run_dir=$(cd "$1" && pwd)
conf=$run_dir/cinder.conf
if [ ! -f "$conf" ]; then
    cat > "$conf" <<CONF
[DEFAULT]
state_path = $run_dir/state
CONF
    # A socket's whole path has at most 107 bytes, so a deep clone keeps its sockets elsewhere.
    if [ ${#run_dir} -gt 50 ]; then
        echo "runtime_path = ${XDG_RUNTIME_DIR:-/tmp}/volsvc-$(id -u)-$(printf %s "$run_dir" | cksum | cut -d' ' -f1)" >> "$conf"
    fi
fi
echo "configuration: $conf"
exec "$2/volsvc-all" --config-file "$conf" --hints
