#!/bin/sh
# Build a bundle's engine and measure it on a Jetson, with its clocks pinned, and give the clocks back.
#
#   sh measure.sh BUNDLE [options of `edgekd-device run`]
#
# A shell of root's pins the clocks and waits. When this script ends, however it ends, the pipe between them closes, and
# the clocks are given back. The bundle's own code runs as you, without a right to sudo: check the bundle first all the same,
# as deploy/README.md says. The power mode stays as it is: set the one you mean to ship with before (sudo nvpmodel -m N).
# Ends with run's exit code, 2 without a bundle, 4 where this is no Jetson or its clocks cannot be pinned.
set -eu

if [ $# -lt 1 ] || [ ! -f "$1/edgekd-device.pyz" ]; then
    echo "Which bundle? sh measure.sh BUNDLE, the folder that holds edgekd-device.pyz." >&2
    exit 2
fi
bundle=$1
shift
if ! command -v jetson_clocks > /dev/null; then
    echo "There is no jetson_clocks here, so this is no Jetson: use python3 $bundle/edgekd-device.pyz run $bundle." >&2
    exit 4
fi

keeping='
    trap "" HUP INT TERM
    kept=$(mktemp -d) || exit 1
    if jetson_clocks --store "$kept/clocks" >&2 && jetson_clocks >&2; then echo pinned; else echo failed; fi
    cat > /dev/null # until the other end is closed
    code=0
    [ ! -e "$kept/clocks" ] || jetson_clocks --restore "$kept/clocks" >&2 || code=1
    rm -rf "$kept"
    exit $code
'
pipes=$(mktemp -d)
mkfifo "$pipes/hold" "$pipes/said"
sudo sh -c "$keeping" < "$pipes/hold" > "$pipes/said" &
keeper=$!
child=
finish() {
    trap '' HUP INT TERM
    if [ -n "$child" ]; then
        kill "$child" 2> /dev/null || true
        wait "$child" || true
    fi
    exec 3>&-
    wait "$keeper" || echo "The clocks may still be pinned: restart the board to free them." >&2
    rm -rf "$pipes"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
exec 3> "$pipes/hold"
read -r said < "$pipes/said" || said=
sudo -k # what comes with the bundle finds no ticket
if [ "$said" != pinned ]; then
    echo "The clocks could not be pinned, so nothing was measured; --level smoke of run needs none pinned." >&2
    exit 4
fi

# In the background, so that a signal to this script is heard at once; the pipe is not the bundle's to hold open.
device() {
    python3 "$bundle/edgekd-device.pyz" "$@" 3>&- &
    child=$!
    code=0
    wait "$child" || code=$?
    child=
    return $code
}
device build "$bundle" # pinned too: the builder chooses kernels by their times
device run "$bundle" --level standard "$@"
