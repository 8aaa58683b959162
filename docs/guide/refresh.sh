#!/bin/sh
# Runs every recipe of the guide's pages, puts what it prints into the ```text block that follows it (where there is one), and its figures into
# docs/images. Look at both before you commit them.            usage: docs/guide/refresh.sh PATCHBAY [PAGE.md ...]
set -eu
program=$(cd "$(dirname "${1:?usage: docs/guide/refresh.sh PATCHBAY [PAGE.md ...]}")" && pwd)/$(basename "$1")
shift
cd "$(dirname "$0")/../.."
PATCHBAY_SCRIPTS=$(pwd)/scripts/patchbay PATCHBAY_MODELS=$(pwd)/examples/models
export PATCHBAY_SCRIPTS PATCHBAY_MODELS
place=$(mktemp -d "${TMPDIR:-/tmp}/patchbay-guide.XXXXXX")
trap 'rm -rf "$place"' EXIT
[ $# -gt 0 ] || set -- docs/guide/*.md
for page in "$@"; do
    rm -rf "$place"/*
    awk -v place="$place" '/^```lua/ { n++; inside = 1; next } /^```/ { inside = 0 }
        inside { print > sprintf("%s/%03d.lua", place, n) }' "$page"
    for recipe in "$place"/*.lua; do
        [ -f "$recipe" ] || continue
        echo "$page $(basename "$recipe" .lua)"
        "$program" run "$recipe" -o "$place/out" >"${recipe%.lua}.txt" 2>"$place/log" || { cat "$place/log"; exit 1; }
    done
    awk -v place="$place" '/^```lua/ { n++; fresh = 1 }
        skipping && /^```/ { skipping = 0 }
        !skipping { print }
        /^```text/ && fresh { file = sprintf("%s/%03d.txt", place, n); while ((getline line < file) > 0) print line; skipping = 1; fresh = 0 }' \
        "$page" >"$place/page"
    cat "$place/page" >"$page"
    for figure in "$place"/out/*.png; do
        if [ -f "$figure" ]; then cp "$figure" docs/images/; fi
    done
done
