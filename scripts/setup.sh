#!/bin/sh
# sh scripts/setup.sh demo    install what is missing, build, draw the first figure
# sh scripts/setup.sh test    the same, then all tests
# sh scripts/setup.sh deps    only install what is missing
# Debian and Ubuntu: missing packages come from apt (with sudo where not root). Elsewhere: what is missing is listed by
# name, and with nothing missing it goes on. CC, WERROR and other variables of the Makefile pass through.
set -eu

say() { printf '%s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

what=${1:-}
case $what in
demo | test | deps) ;;
*) die "usage: sh scripts/setup.sh demo | test | deps" ;;
esac
cd "$(dirname "$0")/.."

# What a build needs: one line each: Debian package, pkg-config module or '-' for a command, its name, what it is for.
needs='gcc                    -          cc         C compiler
make                   -          make       build
pkg-config             -          pkg-config build
liblua5.4-dev          lua5.4     -          the language of recipes
libopenblas-openmp-dev openblas   -          BLAS and LAPACK
libpng-dev             libpng     -          figures with their manifest
libcairo2-dev          cairo      -          shapes in figures
libpango1.0-dev        pangocairo -          text in figures
libjansson-dev         jansson    -          JSON
libpcre2-dev           libpcre2-8 -          regular expressions of tokenizers
libutf8proc-dev        libutf8proc -         normal forms of tokenizers
libcurl4-openssl-dev   libcurl    -          downloads
libssl-dev             libcrypto  -          SHA-256'
if [ "$what" != demo ]; then
    needs="$needs
libcmocka-dev          cmocka     -          C tests"
fi

present() { # MODULE COMMAND
    if [ "$1" = - ]; then command -v "$2" >/dev/null 2>&1; else pkg-config --exists "$1" 2>/dev/null; fi
}
have_font() { command -v fc-list >/dev/null 2>&1 && [ -n "$(fc-list 2>/dev/null | head -n 1)" ]; }

missing= # package names
list_missing() {
    missing=$(
        printf '%s\n' "$needs" | while read -r package module command _; do
            present "$module" "$command" || printf '%s ' "$package"
        done
        have_font || printf 'fonts-dejavu-core '
    )
}

list_missing
if [ -n "$missing" ] && command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" -eq 0 ]; then
        sudo=
    elif command -v sudo >/dev/null 2>&1; then
        sudo=sudo
    else
        die "these packages are missing, and there is no sudo to install them with: $missing"
    fi
    say "setup: installing $missing"
    # fontconfig brings fc-list, by which this script sees whether there is a font
    case $missing in *fonts*) missing="$missing fontconfig" ;; esac
    $sudo apt-get update -q || die "apt-get update failed"
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing ||
        die "apt-get could not install: $missing"
    list_missing
fi
if [ -n "$missing" ]; then
    say "setup: missing here (Debian's names; other systems have others):" >&2
    printf '%s\n' "$needs
fonts-dejavu-core      any-font   -          labels in figures" | while read -r package module command purpose; do
        case " $missing" in *" $package "*)
            if [ "$module" = - ]; then module="command $command"; else module="pkg-config module $module"; fi
            case $package in fonts-*) module="a font that fc-list shows" ;; esac
            printf '  %-24s %-30s %s\n' "$package" "$module" "$purpose" >&2 ;;
        esac
    done
    die "install these, then start again"
fi

# With the pthread build of OpenBLAS our threads and its threads compete: same results, small models several times slower.
library=$(readlink -f "$(pkg-config --variable=libdir openblas)/libopenblas.so" 2>/dev/null || :)
case $library in
*pthread* | *serial*)
    say "setup: note: OpenBLAS in use is $library, not the OpenMP build; where Debian's alternatives decide:"
    say "setup:       sudo update-alternatives --config libopenblas.so-$(cc -dumpmachine)"
    say "setup:       sudo update-alternatives --config libopenblas.so.0-$(cc -dumpmachine)"
    ;;
esac
if [ "$what" = deps ]; then
    say "setup: everything is here"
    exit 0
fi

jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
make -j "$jobs" ${WERROR:+WERROR="$WERROR"} all || die "the build failed"
build=${BUILD:-build}

"$build/patchbay" run examples/trace.lua -o "$build/demo" || die "examples/trace.lua failed"
figure=$(find "$build/demo" -name '*.png' | sort | head -n 1)
[ -n "$figure" ] || die "examples/trace.lua left no figure in $build/demo"
say "setup: the figure is $figure"

if [ "$what" = test ]; then
    make -j "$jobs" ${WERROR:+WERROR="$WERROR"} tests || die "the tests do not build"
    make ${WERROR:+WERROR="$WERROR"} test || die "tests failed"
fi
