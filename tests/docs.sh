#!/bin/sh
# Runs every ```lua block of README.md and docs/guide as a recipe of its own: documentation that does not run is a bug.
# usage: tests/docs.sh PATCHBAY
set -eu
program=$(cd "$(dirname "${1:?usage: tests/docs.sh PATCHBAY}")" && pwd)/$(basename "$1")
cd "$(dirname "$0")/.."
PATCHBAY_SCRIPTS=$(pwd)/scripts/patchbay PATCHBAY_MODELS=$(pwd)/examples/models
export PATCHBAY_SCRIPTS PATCHBAY_MODELS
place=$(mktemp -d "${TMPDIR:-/tmp}/patchbay-docs.XXXXXX")
trap 'rm -rf "$place"' EXIT
passed=0 failed=0
for page in README.md docs/guide/*.md; do
    rm -f "$place"/*.lua
    awk -v place="$place" '/^```lua/ { n++; inside = 1; next } /^```/ { inside = 0 }
        inside { print > sprintf("%s/%03d.lua", place, n) }' "$page"
    for recipe in "$place"/*.lua; do
        [ -f "$recipe" ] || continue
        if "$program" run "$recipe" -o "$place/out" >"$place/log" 2>&1; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "$page, Lua block $(basename "$recipe" .lua):"
            cat "$place/log"
        fi
        if [ -n "${VERBOSE:-}" ]; then cat "$place/log"; fi
    done
done
for recipe in examples/*.lua; do
    if "$program" run "$recipe" -o "$place/out" >"$place/log" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "$recipe:"
        cat "$place/log"
    fi
done
echo "recipes of the documentation and examples: $passed run, $failed do not"
[ "$failed" -eq 0 ]
