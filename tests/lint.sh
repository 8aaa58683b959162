#!/bin/sh
# What compilers do not check. usage: tests/lint.sh BUILD (a folder where `make all` has run; for the check of globals)
# Prints every finding as "lint: file:line: what"; exit status 1 if there is one. Tools that are absent are named.
build=${1:-build}
findings=$(mktemp "${TMPDIR:-/tmp}/patchbay-lint.XXXXXX") || exit 1
trap 'rm -f "$findings"' EXIT

complain() { sed "s|\$| -- $1|" >>"$findings"; } # adds each line of stdin with the reason behind it
note() { printf 'lint: %s\n' "$*"; }

c_files=$(find src include tests -name '*.[ch]' | sort)

# ---- includes: base <- tensor <- model <- engine <- figure <- host <- main ------------------------------------------
forbid() { # FOLDER PATTERN REASON: no file of the folder includes the pattern
    grep -nE "^ *# *include *[<\"]($2)" -r "src/$1" 2>/dev/null | complain "$3"
}
order='base tensor model engine figure host'
seen=
for folder in $order; do
    above=$(for other in $order; do case " $seen $folder " in *" $other "*) ;; *) printf '%s/|' "$other" ;; esac; done)
    if [ -n "$above" ]; then forbid "$folder" "${above%|}" "src/$folder may not use what is above it"; fi
    seen="$seen $folder"
done
# public headers belong to folders too
forbid base 'patchbay/(tensor|tensorio|model|tokenizer|patch|metric|run|figure|patchbay)\.h' 'src/base may not use what is above it'
forbid tensor 'patchbay/(model|tokenizer|patch|metric|run|figure|patchbay)\.h' 'src/tensor may not use what is above it'
forbid model 'patchbay/(patch|metric|run|figure|patchbay)\.h' 'src/model may not use what is above it'
forbid engine 'patchbay/(figure|patchbay)\.h' 'src/engine may not use what is above it'

only_in() { # PATTERN WHERE REASON: files under src that match WHERE alone may include the pattern
    grep -rnE "^ *# *include *[<\"]($1)" src include | grep -vE "^($2)" | complain "$3"
}
only_in '(cblas|lapacke|openblas_config|lapack)' 'src/tensor/' 'only src/tensor includes BLAS and LAPACK'
only_in 'png\.h' 'src/figure/png\.c:' 'only src/figure/png.c includes png.h'
only_in '(cairo|pango)' 'src/figure/' 'only src/figure draws'
only_in '(lua|lauxlib|lualib)\.h' 'src/(host/|main\.c:)' 'only src/host includes Lua'
only_in 'curl/' 'src/base/http\.c' 'only src/base/http.c includes curl'
only_in 'openssl/' 'src/base/' 'only src/base includes OpenSSL'
only_in 'jansson' 'src/(base|model)/' 'only src/base and src/model include jansson'
only_in 'pcre2' 'src/model/' 'only src/model includes regular expressions'

# ---- calls that a library may not make --------------------------------------------------------------------------------
code() { # prints file:line:text of the C code below FOLDERS without comments and string literals
    find "$@" -name '*.[ch]' | sort | xargs awk '
        FNR == 1 { inside = 0 }
        { line = $0; gsub(/\\./, "", line); gsub(/"[^"]*"/, "\"\"", line)
          if (inside) { if (match(line, /\*\//)) { line = substr(line, RSTART + 2); inside = 0 } else next }
          while (match(line, /\/\*/)) { head = substr(line, 1, RSTART - 1); rest = substr(line, RSTART + 2)
              if (match(rest, /\*\//)) line = head substr(rest, RSTART + 2); else { line = head; inside = 1; break } }
          sub(/\/\/.*/, "", line); print FILENAME ":" FNR ":" line }'
}
below_host='src/base src/tensor src/model src/engine src/figure'
# shellcheck disable=SC2086
code $below_host src/host | grep -E '[^A-Za-z0-9_](exit|abort|_exit|quick_exit) *\(' | complain 'only main.c ends the process'
# shellcheck disable=SC2086
code $below_host | grep -E '[^A-Za-z0-9_](printf|puts|putchar|perror|vprintf) *\(|[^A-Za-z0-9_](stdout|stderr)[^A-Za-z0-9_]' |
    complain 'a library does not print'
code src | grep -E '[^A-Za-z0-9_](strcpy|strcat|sprintf|gets|strtok|atoi|atof|alloca|setenv|putenv|srand|rand) *\(' |
    complain 'not this function: unbounded, unchecked or global'
code src | grep -E '[^A-Za-z0-9_](malloc|calloc|realloc) *\(' | grep -vE '^src/(base/(alloc|context)\.c|host/|main\.c)' |
    complain 'memory comes from pb_alloc'
code src | grep -E 'assert *\( *0 *\)' | complain 'an assert that always fails'
grep -rnE '\b(TODO|FIXME|XXX|HACK)\b' src include scripts examples tests/c tests/lua tests/support README.md docs 2>/dev/null |
    complain 'finish it, or file an issue'
grep -rnE '(/home/|/root/|/work/|/Users/)' --include='*' src include scripts examples tests docs README.md Makefile .ci 2>/dev/null |
    grep -vE '^tests/(lint\.sh|golden/)|^Binary' | complain 'a path of one machine'

# ---- no mutable globals ------------------------------------------------------------------------------------------------
# Symbols in writable sections of the library; tables of constant pointers (.data.rel.ro) are not writable after start.
if [ -f "$build/libpatchbay.a" ] && command -v objdump >/dev/null 2>&1; then
    # interrupt.o: a signal handler reaches nothing but static memory
    objdump -t "$build/libpatchbay.a" 2>/dev/null |
        awk '/file format/ { object = $1; sub(/:$/, "", object) }
             / (\.data|\.bss|\.tbss|\.tdata|\*COM\*)([.][^ ]*)?[ \t]/ {
                 if ($0 ~ /\.data\.rel\.ro/ || $0 ~ / d +\.(data|bss)/) next
                 name = $NF; if (name !~ /^(\.|__sancov|__asan|__odr_asan|__ubsan|_ZN)/ && name !~ /^(\.?L)/) if (object != "interrupt.o") print object ": " name }' |
        complain 'a mutable global: state belongs to the context'
else
    note "no $build/libpatchbay.a or no objdump: mutable globals were not looked for"
fi

# ---- lengths -------------------------------------------------------------------------------------------------------------
for file in $c_files; do
    lines=$(wc -l <"$file")
    case $file in tests/*) enough=1000 limit=1500 ;; *) enough=600 limit=1000 ;; esac
    if [ "$lines" -gt "$limit" ]; then
        echo "$file:$lines" | complain "longer than $limit lines"
    elif [ "$lines" -gt "$enough" ]; then
        note "warning: $file has $lines lines ($enough are enough)"
    fi
done
for file in $(find scripts/patchbay -maxdepth 1 -name '*.lua' 2>/dev/null | sort); do
    lines=$(wc -l <"$file")
    if [ "$lines" -gt 500 ]; then
        echo "$file:$lines" | complain 'a technique of more than 500 lines'
    elif [ "$lines" -gt 150 ]; then
        note "warning: $file has $lines lines (a technique fits in 150)"
    fi
done
long=$(awk 'length($0) > 160 { print FILENAME ":" FNR }' $(find src include -name '*.[ch]'))
if [ -n "$long" ]; then printf '%s\n' "$long" | complain 'a line of more than 160 columns'; fi

# ---- Lua: syntax ---------------------------------------------------------------------------------------------------------
luac=$(command -v luac5.4 || command -v luac54 || command -v luac || :)
lua_files=$(find scripts examples tests -name '*.lua' | sort)
if [ -n "$luac" ] && "$luac" -v 2>&1 | grep -q 'Lua 5\.4'; then
    for file in $lua_files; do "$luac" -p "$file" 2>&1 | complain 'Lua syntax'; done
else
    note 'no luac 5.4 (package lua5.4): Lua syntax was not checked'
fi

# ---- shell: syntax ---------------------------------------------------------------------------------------------------------
for file in scripts/*.sh tests/*.sh; do sh -n "$file" 2>&1 | complain 'shell syntax'; done
bash -n .ci/run 2>&1 | complain 'shell syntax'

# ---- links of README and docs ------------------------------------------------------------------------------------------------
for file in README.md $(find docs -name '*.md' 2>/dev/null | sort); do
    [ -f "$file" ] || continue
    folder=$(dirname "$file")
    awk '/^```/ { code = !code; print ""; next } code { print ""; next } { gsub(/`[^`]*`/, ""); print }' "$file" |
        grep -noE '\]\([^)#: ]+[^):]*\)|src="[^":]+"' | while IFS= read -r hit; do
        line=${hit%%:*}
        target=$(printf '%s' "$hit" | sed -E 's/^[0-9]+:(\]\(|src=")//; s/[)"]$//; s/#.*//')
        [ -z "$target" ] || [ -e "$folder/$target" ] || echo "$file:$line: $target" | complain 'a link to nothing'
    done
done

# ---- the reference is the pages of help --------------------------------------------------------------------------------------
if [ -x "$build/patchbay" ] && [ -f docs/reference.md ]; then
    PATCHBAY_SCRIPTS=scripts/patchbay "$build/patchbay" help --markdown 2>/dev/null | cmp -s - docs/reference.md ||
        note 'warning: docs/reference.md is older than the pages of help: make doc'
fi

# ---- cppcheck ----------------------------------------------------------------------------------------------------------------
if command -v cppcheck >/dev/null 2>&1; then
    # Suppressed: findings of 2.10 that do not see that raising does not return, that log(0) is -inf, which loops run
    # together, and that n of n entries are written (gcc and valgrind look for uninitialised values).
    cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr -j 2 -Iinclude -Isrc \
        --suppress=missingIncludeSystem --suppress=internalAstError --suppress=unknownMacro \
        --suppress=nullPointerRedundantCheck --suppress=invalidFunctionArg --suppress=arrayIndexThenCheck --suppress=negativeIndex \
        --suppress=uninitvar -DPB_ISA=baseline \
        --template='{file}:{line}: {message} [{id}]' src 2>&1 | complain cppcheck
else
    note 'no cppcheck: skipped'
fi

count=$(wc -l <"$findings")
sed 's/^/lint: /' "$findings"
if [ "$count" -gt 0 ]; then
    note "$count findings"
    exit 1
fi
note 'nothing found'
