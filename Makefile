# Patchbay. `make help` lists the targets.
VERSION   := 0.1.0
BUILD     ?= build
CC        ?= cc
AR        ?= ar
OPT       ?= -O2 -g
WERROR    ?=
PREFIX    ?= /usr/local

PACKAGES  := lua5.4 openblas libpng jansson libpcre2-8 libutf8proc sqlite3 libcurl libcrypto cairo pangocairo libedit
PKG_CONFIG ?= pkg-config

WARNINGS  := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla $(WERROR)
CPPFLAGS  += -Iinclude -Isrc -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE
DEP_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PACKAGES) | sed 's/-I/-isystem /g')
DEP_LIBS  := $(shell $(PKG_CONFIG) --libs $(PACKAGES)) -lm
CFLAGS_ALL = -std=c11 $(OPT) -fopenmp -fno-math-errno -ffp-contract=off $(WARNINGS) $(DEP_CFLAGS) $(SAN) $(CFLAGS)
LDFLAGS_ALL = -fopenmp $(SAN) $(LDFLAGS)

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
SUPPORT_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/*.c))

all: $(BUILD)/patchbay

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

define isa_rule
$$(BUILD)/%.$(1).o: %.c
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DPB_ISA=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

$(BUILD)/libpatchbay.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/patchbay: $(BUILD)/src/main.o $(BUILD)/libpatchbay.a
	$(CC) $(LDFLAGS_ALL) $^ $(DEP_LIBS) -o $@

$(BUILD)/tests/%: $(BUILD)/tests/c/%.o $(SUPPORT_OBJ) $(BUILD)/libpatchbay.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $^ -lcmocka $(DEP_LIBS) -o $@

clean:
	rm -rf $(BUILD)

.PHONY: all clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
