#!/bin/sh
# Build a bundle's engine and measure it on a Jetson, with its clocks pinned, and give the clocks back.
#
#   sh measure.sh BUNDLE [options of `edgekd-device run`]
#
# The power mode stays as it is: set the one you mean to ship with first (sudo nvpmodel -m N). sudo is asked for
# jetson_clocks alone. Check the bundle first, as deploy/README.md says: this runs the package that came with it.
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

kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
if ! sudo jetson_clocks --store "$kept/clocks"; then
    echo "The clocks could not be stored, so they are left alone; --level smoke needs none pinned." >&2
    exit 4
fi
restore() {
    sudo jetson_clocks --restore "$kept/clocks" || echo "The clocks are still pinned: restart the board to free them." >&2
    rm -rf "$kept"
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
sudo jetson_clocks || exit 4
python3 "$bundle/edgekd-device.pyz" build "$bundle" # pinned too: the builder chooses kernels by their times
status=0
python3 "$bundle/edgekd-device.pyz" run "$bundle" --level standard "$@" || status=$?
exit $status
