# Patchbay. `make help` lists the targets and the variables that matter.
VERSION   := $(shell sed -n 's/^.define PATCHBAY_VERSION "\(.*\)"/\1/p' include/patchbay/patchbay.h)
BUILD     ?= build
OPT       ?= -O2 -g
WERROR    ?=
PREFIX    ?= /usr/local
DESTDIR   ?=
PKG_CONFIG   ?= pkg-config
CLANG_FORMAT ?= clang-format
VALGRIND     ?= valgrind

PACKAGES  := lua5.4 openblas libpng jansson libpcre2-8 libutf8proc libcurl libcrypto cairo pangocairo

# {PB_SITE_Z, 3} is a site whose expert is 0: what an initialiser leaves out is zero, and is meant to be
WARNINGS  := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wno-missing-field-initializers $(WERROR)
CPPFLAGS  += -Iinclude -Isrc -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE
DEP_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PACKAGES) | sed 's/-I/-isystem /g')
DEP_LIBS  := -Wl,--as-needed $(shell $(PKG_CONFIG) --libs $(PACKAGES)) -lm

# gcc links libgomp, the runtime that Debian's OpenBLAS uses too. clang links libomp (package libomp-dev), which takes
# over OpenBLAS's calls to libgomp as well, so that there is one pool of threads either way. A clang without libomp can
# only link libgomp (with gcc's omp.h) and drops the pragmas: correct, but our own loops then run in one thread.
OPENMP    := $(shell printf '\043include <omp.h>\nint main(void){return omp_in_parallel();}' \
               | $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp \
               || echo -fopenmp=libgomp -idirafter $$(dirname $$(gcc -print-file-name=include/omp.h)))

WARNINGS  += $(if $(findstring libgomp,$(OPENMP)),-Wno-unused-variable) # what only the dropped pragmas use

CFLAGS_ALL = -std=c11 $(OPT) $(OPENMP) -fno-math-errno -ffp-contract=off $(WARNINGS) $(DEP_CFLAGS) $(SAN) $(CFLAGS)
LDFLAGS_ALL = $(OPENMP) $(SAN) $(LDFLAGS)

# src/tensor/*_isa.c are compiled once per instruction set; src/tensor/kernels.c picks a table of theirs at run time.
ISA_SRC   := $(wildcard src/tensor/*_isa.c)
ISAS      := baseline $(if $(filter x86_64%,$(shell $(CC) -dumpmachine)),avx2 avx512)
ISA_FLAGS_avx2   := -mavx2 -mfma -mf16c
ISA_FLAGS_avx512 := -mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma -mf16c
ISA_OBJ   := $(foreach isa,$(ISAS),$(ISA_SRC:%.c=$(BUILD)/%.$(isa).o))

LIB_SRC   := $(filter-out $(ISA_SRC),$(wildcard src/*/*.c))
LIB_OBJ   := $(LIB_SRC:%.c=$(BUILD)/%.o) $(ISA_OBJ)
TEST_SRC  := $(wildcard tests/c/test_*.c)
TEST_BIN  := $(TEST_SRC:tests/c/%.c=$(BUILD)/tests/%)
BENCH_SRC := $(filter-out tests/bench/bench_common.c,$(wildcard tests/bench/bench_*.c))
BENCH_BIN := $(BENCH_SRC:tests/bench/%.c=$(BUILD)/bench/%)
SUPPORT_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/*.c))
FORMATTED := $(wildcard include/patchbay/*.h src/*.c src/*/*.[ch] tests/*/*.[ch])

all: $(BUILD)/patchbay $(BUILD)/libpatchbay.a

help:
	@echo 'all          $(BUILD)/patchbay and $(BUILD)/libpatchbay.a (the default)'
	@echo 'test         every C and Lua test; the last line counts them'
	@echo 'check        lint, test, asan, ubsan: what should pass before a commit'
	@echo 'asan ubsan   the tests under AddressSanitizer (with leaks) or UndefinedBehaviorSanitizer'
	@echo 'sanitize     the tests under both at once (what CI runs)'
	@echo 'valgrind     the C tests of $(BUILD)/tests named in VALGRIND_TESTS under memcheck'
	@echo 'bench        speed and memory on a model of the shape of GPT-2 small  BENCH=filter picks workloads'
	@echo 'lint         dependency direction, forbidden calls, globals, file lengths, cppcheck, Lua syntax, links'
	@echo 'format       rewrite the C files with clang-format; format-check only reports'
	@echo 'model        corpus, tokenizer and training of the built-in model, both kinds, into $(BUILD)/model'
	@echo 'doc          docs/reference.md from the pages that `patchbay help NAME` prints'
	@echo 'install      into DESTDIR + PREFIX ($(PREFIX)); uninstall removes the same files'
	@echo 'clean        remove $(BUILD)'
	@echo 'Variables: CC (gcc, clang), OPT ($(OPT)), WERROR=-Werror, SAN, BUILD, PREFIX, DESTDIR; VERBOSE=1 shows commands and all output'

# Commands are shown whole with VERBOSE=1, else by their object.
show = $(if $(VERBOSE),,@echo '  $(1) $(2)';)

# Objects depend on this file, which changes only when compiler or flags do.
FLAGS_TEXT = $(CC) | $(CPPFLAGS) | $(CFLAGS_ALL) | $(LDFLAGS_ALL) | $(DEP_LIBS)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(FLAGS_TEXT)' | cmp -s - $@ || printf '%s\n' '$(FLAGS_TEXT)' > $@

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call show,CC,$<)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

define isa_rule
$$(BUILD)/%.$(1).o: %.c $$(BUILD)/flags
	@mkdir -p $$(@D)
	$$(call show,CC,$$< [$(1)])$$(CC) $$(CPPFLAGS) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DPB_ISA=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

$(BUILD)/libpatchbay.a: $(LIB_OBJ)
	@rm -f $@
	$(call show,AR,$@)$(AR) rcs $@ $^

$(BUILD)/patchbay: $(BUILD)/src/main.o $(BUILD)/libpatchbay.a
	$(call show,LD,$@)$(CC) $(LDFLAGS_ALL) $^ $(DEP_LIBS) -o $@

$(BUILD)/tests/c/%.o $(BUILD)/tests/bench/%.o: private CPPFLAGS += -Itests -Itests/support

$(BUILD)/tests/%: $(BUILD)/tests/c/%.o $(SUPPORT_OBJ) $(BUILD)/libpatchbay.a
	@mkdir -p $(@D)
	$(call show,LD,$@)$(CC) $(LDFLAGS_ALL) $^ -lcmocka $(DEP_LIBS) -o $@

$(BUILD)/bench/%: $(BUILD)/tests/bench/%.o $(BUILD)/tests/bench/bench_common.o $(BUILD)/tests/support/model_writer.o $(BUILD)/libpatchbay.a
	@mkdir -p $(@D)
	$(call show,LD,$@)$(CC) $(LDFLAGS_ALL) $^ $(DEP_LIBS) -o $@

tests: $(TEST_BIN)

test: $(TEST_BIN) $(BUILD)/patchbay
	@sh tests/run.sh $(BUILD)/patchbay $(TEST_BIN)

check:
	+$(MAKE) lint
	+$(MAKE) test
	+$(MAKE) asan
	+$(MAKE) ubsan

SAN_COMMON := -fno-sanitize-recover=all -fno-omit-frame-pointer
# The Lua suite again with the collector stressed takes long here: only the files that test bindings.
STRESSED   := $(wildcard $(patsubst %,tests/lua/%.lua,tensor grid run patch metric model io params sweep memory grad storage))
SAN_ENV    := PB_TEST_STRESSED='$(STRESSED)' PB_TEST_TIMEOUT=2400 ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:$(ASAN_OPTIONS) \
              LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0:$(LSAN_OPTIONS) \
              UBSAN_OPTIONS=print_stacktrace=1:$(UBSAN_OPTIONS)
asan:
	+@$(SAN_ENV) $(MAKE) BUILD=$(BUILD)/asan OPT='-O1 -g' SAN='-fsanitize=address $(SAN_COMMON)' test
ubsan:
	+@$(SAN_ENV) $(MAKE) BUILD=$(BUILD)/ubsan OPT='-O1 -g' SAN='-fsanitize=undefined $(SAN_COMMON)' test
sanitize:
	+@$(SAN_ENV) $(MAKE) BUILD=$(BUILD)/sanitize OPT='-O1 -g' SAN='-fsanitize=address,undefined $(SAN_COMMON)' test

# memcheck is 20 to 50 times slower than the processor: not those that compute most, and one thread.
VALGRIND_TESTS ?= $(filter-out test_engine test_gemm test_golden% test_grad% test_tokenizer test_figure_output,$(notdir $(TEST_BIN)))
MEMCHECK   := --quiet --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite --suppressions=tests/valgrind.supp
valgrind: $(TEST_BIN)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} PB_TEST_WRAP='$(VALGRIND) $(MEMCHECK)' PB_TEST_TIMEOUT=900 \
	  sh tests/run.sh - $(VALGRIND_TESTS:%=$(BUILD)/tests/%)

bench: $(BENCH_BIN) $(BUILD)/patchbay
	@for bench in $(BENCH_BIN); do $$bench $(BENCH) || exit 1; done
	@case training in *"$(BENCH)"*) PATCHBAY_SCRIPTS=scripts/patchbay $(BUILD)/patchbay run -o $(BUILD)/bench/training examples/facts/speed.lua ;; esac

lint: all
	@sh tests/lint.sh $(BUILD)

format:
	$(CLANG_FORMAT) -i $(FORMATTED)
format-check:
	$(CLANG_FORMAT) --dry-run -Werror $(FORMATTED)

# About half an hour for each kind on two cores; a checkpoint every 400 steps, from which the same command goes on. Then every figure of
# the models' READMEs.
model: $(BUILD)/patchbay
	@export OMP_WAIT_POLICY=passive PATCHBAY_SCRIPTS=scripts/patchbay; for kind in facts free; do \
	  $(BUILD)/patchbay run -o $(BUILD)/model examples/facts/train.lua kind=$$kind && \
	  $(BUILD)/patchbay run -o $(BUILD)/model/$${kind}_visible examples/facts/visible.lua model=$(BUILD)/model/$$kind || exit; done

doc: $(BUILD)/patchbay
	PATCHBAY_SCRIPTS=scripts/patchbay $(BUILD)/patchbay help --markdown > $(BUILD)/reference.md
	mv $(BUILD)/reference.md docs/reference.md

SHARE := $(DESTDIR)$(PREFIX)/share/patchbay
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/patchbay \
	  $(SHARE)/scripts $(SHARE)/examples $(SHARE)/models
	install -m 755 $(BUILD)/patchbay $(DESTDIR)$(PREFIX)/bin/patchbay
	install -m 644 $(BUILD)/libpatchbay.a $(DESTDIR)$(PREFIX)/lib/libpatchbay.a
	install -m 644 include/patchbay/*.h $(DESTDIR)$(PREFIX)/include/patchbay
	cd scripts/patchbay && find . -type f -exec install -D -m 644 {} $(abspath $(SHARE))/scripts/{} \;
	install -m 644 $(wildcard examples/*.lua) $(SHARE)/examples
	cd examples/models && find . -type f -exec install -D -m 644 {} $(abspath $(SHARE))/models/{} \;
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@PACKAGES@|$(PACKAGES)|' -e 's|@OPENMP@|$(OPENMP)|' \
	  scripts/patchbay.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/patchbay.pc
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/patchbay $(DESTDIR)$(PREFIX)/lib/libpatchbay.a $(DESTDIR)$(PREFIX)/lib/pkgconfig/patchbay.pc
	rm -rf $(DESTDIR)$(PREFIX)/include/patchbay $(SHARE)

clean:
	rm -rf $(BUILD)

FORCE:
.PHONY: all help tests test check asan ubsan sanitize valgrind bench lint format format-check model doc install uninstall clean FORCE
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
