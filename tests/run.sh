#!/bin/sh
# Runs cmocka executables and the Lua suite (twice: once with a collection at every step), goes on through failures, and
# ends with one line that counts every test:
#     N passed, N failed[, N skipped]
# usage: tests/run.sh PATCHBAY EXECUTABLE...      (PATCHBAY '-': no Lua suite)
# VERBOSE=1 shows all output (else only of what failed, and every skip). PB_TEST_WRAP: a command in front (valgrind).
# PB_TEST_TIMEOUT: seconds that one executable may take. PB_TEST_LUA: how the Lua suite runs, by default "plain stressed".
# PB_TEST_STRESSED: which files run with the collector stressed, by default all.
patchbay=$1
shift
: "${PB_TEST_DATA:=tests}" "${PB_SHARED:=../shared}" "${PB_TEST_TIMEOUT:=600}" "${PB_TEST_LUA=plain stressed}" "${PB_TEST_STRESSED:=tests/lua}"
export PB_TEST_DATA PB_SHARED
# Idle threads sleep: on a busy machine spinning ones make small tests take minutes. The user's own setting stays.
: "${OMP_WAIT_POLICY:=passive}"
export OMP_WAIT_POLICY
log=$(mktemp "${TMPDIR:-/tmp}/patchbay-test.XXXXXX") || exit 1
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0 skipped=0

if command -v timeout >/dev/null 2>&1; then limit="timeout -k 10 $PB_TEST_TIMEOUT"; else limit=; fi

# report NAME PASSED FAILED SKIPPED STATUS: adds up; a failing status without a failed test is one failure.
report() {
    bad=$3
    if [ "$5" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ $(($2 + bad + $4)) -eq 0 ]; then
        echo "$1 ran no test" >>"$log"
        bad=1
    fi
    passed=$((passed + $2)) failed=$((failed + bad)) skipped=$((skipped + $4))
    if [ "$bad" -gt 0 ] || [ -n "$VERBOSE" ]; then
        cat "$log"
    elif [ "$4" -gt 0 ]; then
        grep -i 'skip' "$log" | grep -vE '^\[|SKIPPED TEST|^[0-9]+ passed' | sort -u
    fi
    end=$(date +%s)
    line="$1: $2 passed"
    if [ "$bad" -gt 0 ]; then line="$line, $bad FAILED"; fi
    if [ "$4" -gt 0 ]; then line="$line, $4 skipped"; fi
    case $5 in
    0) ;;
    124 | 137) line="$line (stopped after $PB_TEST_TIMEOUT s)" ;;
    *) line="$line (exit status $5)" ;;
    esac
    echo "$line, $((end - start)) s"
}

for executable in "$@"; do
    start=$(date +%s)
    # shellcheck disable=SC2086
    $limit $PB_TEST_WRAP "$executable" >"$log" 2>&1 </dev/null
    status=$?
    # Planned minus passed minus skipped is what failed, or never ran because of a crash.
    counts=$(awk '/^\[=+\] (.*: )?Running [0-9]+ test/ { for (i = 1; i < NF; i++) if ($i == "Running") planned += $(i + 1) }
        /^\[ RUN / { running[$NF] = 1 }
        /^\[ +OK \] / { ok++; delete running[$NF] }
        /^\[ +SKIPPED \] / && ($NF in running) { skip++; delete running[$NF] }
        END { bad = planned - ok - skip; print ok + 0, bad < 0 ? 0 : bad, skip + 0 }' "$log")
    # shellcheck disable=SC2086
    report "${executable##*/}" $counts "$status"
done

lua_suite() { # NAME ARGUMENT...
    name=$1
    shift
    start=$(date +%s)
    # shellcheck disable=SC2086
    $limit $PB_TEST_WRAP "$patchbay" test "$@" >"$log" 2>&1 </dev/null
    status=$?
    counts=$(awk '/^[0-9]+ passed, [0-9]+ failed/ { ok = $1; bad = $3; skip = $5 } END { print ok + 0, bad + 0, skip + 0 }' "$log")
    # shellcheck disable=SC2086
    report "$name" $counts "$status"
}
if [ "$patchbay" != - ]; then
    case $PB_TEST_LUA in *plain*) lua_suite tests/lua tests/lua ;; esac
    case $PB_TEST_LUA in *stressed*) lua_suite 'tests/lua, collector stressed' --gc-stress $PB_TEST_STRESSED ;; esac
fi

line="$passed passed, $failed failed"
if [ "$skipped" -gt 0 ]; then line="$line, $skipped skipped"; fi
echo "$line"
[ "$failed" -eq 0 ]
