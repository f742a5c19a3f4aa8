# Build: make; make install; make installcheck. From nothing, without installing: test/run, test/demo.

PG_CONFIG ?= pg_config
PKG_CONFIG ?= pkg-config

EXTENSION = kridtech
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" kridtech.control)

MODULE_big = kridtech
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# sql/kridtech.sql is the whole present schema; the server looks for it under its version's name.
# The deltas have two versions in their name, which is what keeps the copy out of DATA.
DATA_built = sql/$(EXTENSION)--$(EXTVERSION).sql
DATA = $(sort $(wildcard sql/$(EXTENSION)--*--*.sql))

# An HTTP client, an HTTP server, and the TLS of the latter.
LIBRARIES = libcurl libmicrohttpd gnutls

# No -Isrc, nor -iquote: src/limits.h would stand in for <limits.h>. Headers are found beside their user.
PG_CPPFLAGS = -DKRIDTECH_VERSION=\"$(EXTVERSION)\" $(shell $(PKG_CONFIG) --cflags $(LIBRARIES) 2>/dev/null)
# The server's headers are no business of -Wextra: as a system directory they stay silent, and so our
# own code can be held to it. (PGXS names the same directory with -I, which gcc and clang then ignore.)
PG_CPPFLAGS += -isystem $(shell $(PG_CONFIG) --includedir-server)

# Of -Wextra two say nothing here: callbacks have their signature from libraries and the fmgr, hence
# unused parameters; and gcc takes PG_TRY's own variables for clobbered.
PG_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-clobbered -MMD -MP

SHLIB_LINK += $(or $(shell $(PKG_CONFIG) --libs $(LIBRARIES) 2>/dev/null),-lcurl -lmicrohttpd -lgnutls) -Wl,--version-script=src/exports.map

# pg_regress finds sql/ and expected/ beside each other here. The list comes from expected/, since the
# install script lives in sql/ too; name_1.out and the like are alternatives of name.out.
REGRESS = $(filter-out %_1 %_2,$(sort $(patsubst expected/%.out,%,$(wildcard expected/*.out))))
REGRESS_OPTS = --inputdir=.

EXTRA_CLEAN = src/*.d

# Bitcode lets the JIT inline C functions into queries. Ours wait for a network: nothing to inline; and
# building it needs exactly the clang the server was built with.
override with_llvm = no

PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) not found; on Debian: test/deps, or set PG_CONFIG)
endif
include $(PGXS)

$(DATA_built): sql/$(EXTENSION).sql $(EXTENSION).control
	cp $< $@

$(OBJS): $(EXTENSION).control
$(shlib): src/exports.map
-include $(OBJS:.o=.d)

# The suites. check-unit and check-fuzz work in the tree; the rest builds and serves from a temporary
# directory and leaves the tree alone (see test/run).
check-unit:
	$(MAKE) -C test/unit check

check-fuzz:
	$(MAKE) -C test/fuzz run

check-simulator check-regress check-pgtap check-tap check-isolation:
	test/run $(@:check-%=%)

# CYCLES=n random kills under load (50), SEED=n picks which.
check-kill:
	CYCLES=$(or $(CYCLES),50) SEED=$(SEED) test/run tap kill

check-all:
	test/run

check-style:
	test/style/check

# VERSIONS="13 17" picks some.
check-versions:
	test/versions $(VERSIONS)

bench:
	bench/run

demo:
	test/demo

# What PGXN takes: the committed tree, nothing else.
dist:
	git archive --format=zip --prefix=$(EXTENSION)-$(EXTVERSION)/ -o $(EXTENSION)-$(EXTVERSION).zip HEAD

# For test/run: the one place that knows the list.
print-regress:
	@echo $(REGRESS)

.PHONY: print-regress check-unit check-fuzz check-simulator check-regress check-pgtap check-tap check-isolation \
	check-kill check-all check-style check-versions bench demo dist
