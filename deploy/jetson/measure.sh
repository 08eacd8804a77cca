#!/bin/sh
# Measure a bundle on a Jetson with its clocks pinned, and give the clocks back.
#
#   sh measure.sh BUNDLE [options of `edgekd-device run`]
#
# A shell of root's pins the clocks and waits. When this script ends, however it ends, the pipe between them closes, and
# the clocks are given back. The bundle's own code runs as you, without sudo's ticket; check the bundle first all the same, as
# deploy/README.md says. The power mode stays as it is: set the one you mean to ship with before (sudo nvpmodel -m N).
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

# Ends with 3 where the clocks could not be given back; a pipe that nobody reads any more must not end it before.
keeping='
    trap "" HUP INT TERM PIPE
    kept=$(mktemp -d) || exit 1
    if jetson_clocks --store "$kept/clocks" >&2 && jetson_clocks >&2; then echo pinned; else echo failed; fi
    cat > /dev/null # until the other end is closed
    code=0
    [ ! -e "$kept/clocks" ] || jetson_clocks --restore "$kept/clocks" >&2 || code=3
    rm -rf "$kept"
    exit $code
'
pipes='' keeper='' child=''
finish() {
    trap '' HUP INT TERM
    if [ -n "$child" ]; then
        kill "$child" 2> /dev/null || true
        wait "$child" || true
    fi
    if [ -n "$keeper" ]; then
        exec 3>&-
        code=0
        wait "$keeper" || code=$?
        if [ "$code" = 3 ] || [ "$code" -ge 128 ]; then
            echo "The clocks may still be pinned: restart the board to free them." >&2
        fi
    fi
    [ -z "$pipes" ] || rm -rf "$pipes"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

pipes=$(mktemp -d)
mkfifo "$pipes/hold" "$pipes/said"
exec 3<> "$pipes/hold" 4<> "$pipes/said" # for both, so that no end waits for the other to be opened
(
    trap '' HUP INT TERM
    code=0
    sudo sh -c "$keeping" || code=$?
    echo ended
    exit $code
) < "$pipes/hold" > "$pipes/said" 3>&- 4>&- &
keeper=$!
read -r said <&4
sudo -k # what comes with the bundle finds no ticket
if [ "$said" != pinned ]; then
    echo "The clocks could not be pinned, so nothing was measured; --level smoke of run needs none pinned." >&2
    exit 4
fi

# In the background, so that a signal to this script is heard at once; the pipe is not the bundle's to hold open. Engines are
# built pinned too: the builder chooses kernels by their times.
python3 "$bundle/edgekd-device.pyz" run "$bundle" --level standard "$@" 3>&- 4>&- &
child=$!
code=0
wait "$child" || code=$?
child=''
exit $code
