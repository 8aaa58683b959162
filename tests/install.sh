#!/bin/sh
# Installs into a temporary folder and uses what is there from another folder: the program with its built-in model and its
# Lua techniques, and the C library through pkg-config. usage: tests/install.sh   (BUILD, CC as for make)
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
place=$(mktemp -d "${TMPDIR:-/tmp}/patchbay-install.XXXXXX")
trap 'rm -rf "$place"' EXIT
fail() {
    echo "install: $*" >&2
    exit 1
}

make -s BUILD="${BUILD:-build}" DESTDIR="$place/stage" PREFIX=/opt/patchbay install
# a package is unpacked somewhere else than where it was built
mv "$place/stage/opt/patchbay" "$place/installed"
sed -i "s|^prefix=.*|prefix=$place/installed|" "$place/installed/lib/pkgconfig/patchbay.pc"
if grep -rlF "$root" "$place/installed" --include='*.pc' --include='*.h' --include='*.lua'; then
    fail "installed files name the source folder"
fi
mkdir "$place/elsewhere"
cd "$place/elsewhere"

program=$place/installed/bin/patchbay
"$program" --version | grep -q '[0-9]\.[0-9]' || fail 'no version'
cat >recipe.lua <<'L'
local pb = require "patchbay"
local model = pb.load "facts"
local run = model:run "The Eiffel Tower is located in the city of"
print("probability of Paris", pb.metric.prob(" Paris")(run))
L
"$program" run recipe.lua -o out >log 2>&1 || { cat log; fail 'the installed program does not run a recipe'; }
grep -q 'probability of Paris.*0\.9' log || { cat log; fail 'the installed program gives another answer'; }
echo 'install: the program runs a recipe from any folder'

cat >probe.c <<'C'
#include <patchbay/patchbay.h>
#include <stdio.h>

int main(int argc, char **argv) {
    pb_error err = {0};
    pb_context *ctx = NULL;
    pb_model *model = NULL;
    pb_run *run = NULL;
    pb_metric *metric = NULL;
    double rank = -1;
    const int32_t ids[] = {11, 12, 13}, answer = 14;
    const pb_metric_options options = {.kind = PB_METRIC_RANK, .answers = &answer, .n_answers = 1};
    int failed = argc != 2 || pb_context_create(NULL, &ctx, &err) || pb_model_open(ctx, argv[1], NULL, &model, &err) ||
                 pb_run_create(model, ids, 3, &run, &err) || pb_metric_create(ctx, &options, &metric, &err) ||
                 pb_run_metric(run, metric, &rank, &err);
    printf("%s: %d layers, rank %.0f %s\n", PATCHBAY_VERSION, model ? pb_model_layers(model) : 0, rank, err.message);
    pb_metric_unref(metric);
    pb_run_unref(run);
    pb_model_unref(model);
    pb_context_unref(ctx);
    return failed || rank < 0;
}
C
PKG_CONFIG_PATH=$place/installed/lib/pkgconfig
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
"${CC:-cc}" -std=c11 -Wall -Wextra -Werror probe.c $(pkg-config --cflags --libs patchbay) -o probe || fail 'a C program does not link'
./probe "$place/installed/share/patchbay/models/facts" || fail 'a C program that is linked with the library fails'
echo 'install: a C program links through pkg-config and runs'

cd "$root"
mkdir -p "$place/stage/opt"
make -s BUILD="${BUILD:-build}" DESTDIR="$place/stage" PREFIX=/opt/patchbay install uninstall
left=$(find "$place/stage" -type f)
[ -z "$left" ] || fail "uninstall leaves $left"
echo 'install: uninstall leaves nothing'
