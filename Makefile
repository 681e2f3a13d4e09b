## make demo       start a portal with an emulated Xen host behind it, on http://127.0.0.1:8080
## make demo-stop  stop it
## make quick      check formatting and lints, run all tests that need no whole host
## make test       run all tests, including those on the emulated host, except the long scenarios
## make test-deep  run the long scenarios, which take minutes each
## make test-turn  run one long scenario, a different one for each commit; CI does, after "make test"
## make deny       check licenses and sources of all dependencies; "make check" does, too
## make audit      look dependencies up in RustSec's list of advisories, which it downloads from GitHub
## make bench      measure speed, relative to references from the same run
## make install    install on a real server or host; see INSTALL.md
SHELL = /bin/sh
CARGO ?= cargo
DESTDIR ?=
PREFIX ?= /usr
SYSCONFDIR ?= /etc
# Which halves to build and install: server, node, or both.
PARTS ?= server node

LIB = $(DESTDIR)$(PREFIX)/lib/vgrid
SHARE = $(DESTDIR)$(PREFIX)/share/vgrid
ETC = $(DESTDIR)$(SYSCONFDIR)/vgrid
APACHE = $(DESTDIR)$(SYSCONFDIR)/apache2/conf-available
TARGET = $(or $(CARGO_TARGET_DIR),target)
# What "make build" makes and "make install" installs.
PROGRAMS = $(TARGET)/programs

programs = $(filter-out helper worker,$(basename $(notdir $(wildcard bin/$(1)/*.rs))))
BINS = $(foreach dir,user internal node,$(addprefix $(dir)-,$(call programs,$(dir)))) \
	$(addprefix vgrid-,helper worker $(call programs,cli) $(call programs,cron))

# What "make bench" measures; "make bench -- deploy" only what has that in its name.
BENCHES = pages upkeep images deploy deploy-xen

.PHONY: help build demo demo-stop quick quick-lint quick-build quick-unit quick-integration test test-deep deep-list test-turn check deny audit bench $(BENCHES) install install-server install-node install-common source clean

# The most frequently requested pages are linked statically, because a CGI program spends most of its
# time starting. They resolve no names, which glibc can't do well without its shared libraries.
STATIC = user-list user-show
STATIC_FLAGS = -C target-feature=+crt-static -C relocation-model=static

build:
	$(CARGO) build --release --locked $(addprefix --bin ,$(filter-out $(STATIC),$(BINS)))
	for bin in $(STATIC); do $(CARGO) rustc --release --locked --bin $$bin -- $(STATIC_FLAGS) || exit 1; done
	install -d $(PROGRAMS)
	for bin in $(BINS); do cp -f $(TARGET)/release/$$bin $(PROGRAMS)/ || exit 1; done

demo:
	tests/xenhost/demo start

demo-stop:
	tests/xenhost/demo stop

# Formatting, lints, each half built without the other, and what it is all made of.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --features server -- -D warnings
	$(CARGO) clippy --locked --no-default-features --features node -- -D warnings
	$(MAKE) deny

# Needs no network once the dependencies are there.
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		{ echo 'cargo-deny is missing: "tests/xenhost/packages test" installs it' >&2; exit 1; }
	$(CARGO) deny --locked check --hide-inclusion-graph licenses bans sources

audit:
	$(CARGO) deny --locked check --hide-inclusion-graph advisories

# Scenarios that take minutes each: owners' keys, Xen through libvirt, mishaps in every stage, reboots and power
# cuts, two hosts, queues, saved images, disks that attack the host, an impostor in the server's place and a lost
# registry, a registry restored from an hour ago, volumes that grow, networks, thirty deploys at once, unknown
# things on a host, every check of vgrid-check broken once, a Xen host and a KVM host with one portal, the life of
# a whole-disk image, mishaps in every stage on a libvirt host, images that change while they are prepared, saved
# images, images that a host prepares by itself, helpers that are killed while machines go back to a snapshot or to
# their image, or get other sizes, mishaps in a thin pool, and snapshots there.
DEEP = xen::check xen::healing xen::hostile xen::keys xen::libvirt xen::life::thirty xen::loss xen::mixed \
	xen::networks xen::orders xen::pool xen::power xen::reports xen::resize xen::restore xen::save xen::snapshots xen::strangers \
	xen::thin xen::two \
	virt::cloud::a_cloud_image_lives virt::mishaps::disk virt::mishaps::helper virt::mishaps::libvirtd \
	virt::prepared::a_host virt::prepared::a_saved virt::prepared::an_image \
	virt::snapshots::a_killed_helper virt::resize::a_killed_worker_or_helper

test:
	tests/xenhost/packages test
	$(MAKE) check
	$(MAKE) build
	VGRID_PROGRAMS=$(abspath $(PROGRAMS)) $(CARGO) test --locked -- $(addprefix --skip ,$(DEEP))

test-deep:
	tests/xenhost/packages test
	$(MAKE) build
	VGRID_PROGRAMS=$(abspath $(PROGRAMS)) $(CARGO) test --locked --test integration -- $(DEEP)

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

# The names of those scenarios, as listed by the test binary, so that none can be forgotten.
deep-list:
	@$(CARGO) test --locked --quiet --test integration -- --list $(DEEP) | sed -n 's/: test$$//p'

# The number of commits selects the scenario, so that each gets its turn and none rots. A shallow clone
# runs the first. The output is shown live, so that an aborted run still tells which scenario it was.
test-turn:
	tests/xenhost/packages test
	$(MAKE) build
	names=$$($(MAKE) -s deep-list) && many=$$(echo "$$names" | wc -l) && \
	count=0 && case $$(git rev-parse --is-shallow-repository 2>/dev/null) in \
		false) count=$$(git rev-list --count HEAD) ;; esac && \
	name=$$(echo "$$names" | sed -n "$$((count % many + 1))p") && test -n "$$name" && \
	echo "the turn of commit $$count: $$name" && \
	VGRID_PROGRAMS=$(abspath $(PROGRAMS)) $(CARGO) test --locked --test integration -- --exact "$$name" --nocapture

# The development loop. The programs are debug builds. Most tests wait most of the time, so more run at once than
# there are processors, and lints and unit tests along with the others. Only the load test is shorter than in
# "make test". Programs have no unit tests of their own; "--bins" would link each a second time.
quick:
	$(CARGO) fmt --all --check
	$(MAKE) --jobs=3 quick-lint quick-unit quick-integration

# In a folder of its own, so that it waits for no other compilation. They share nothing.
quick-lint:
	CARGO_TARGET_DIR=$(TARGET)/lint $(CARGO) clippy --locked --all-targets -- -D warnings

quick-build:
	$(CARGO) test --locked --no-run --lib --test integration

quick-unit: quick-build
	$(CARGO) test --locked --quiet --lib

quick-integration: quick-build
	env -u VGRID_PROGRAMS VGRID_LOAD_SECONDS=5 \
		$(CARGO) test --locked --test integration -- --skip xen:: --skip virt:: --test-threads 10

bench:
	tests/xenhost/packages test
	$(MAKE) build
	VGRID_PROGRAMS=$(abspath $(PROGRAMS)) $(CARGO) bench --locked --bench bench -- $(filter $(BENCHES),$(MAKECMDGOALS))

$(BENCHES):
	@:

install: $(addprefix install-,$(PARTS))

# The program bin/user/list.rs is the binary user-list and /usr/lib/vgrid/cgi-bin/user/list: the path
# in bin/ is the path in the URL.
define install-cgi
	install -d $(LIB)/cgi-bin/$(1)
	for f in $(2); do install -m 755 $(PROGRAMS)/$(1)-$$f $(LIB)/cgi-bin/$(1)/$$f || exit 1; done
endef

# Existing configuration is never overwritten; the example is installed next to it.
install-config = install -d $(dir $(2)) && \
	if [ -e $(2) ]; then install -m 644 $(1) $(2).example; else install -m 644 $(1) $(2); fi

install-common:
	$(call install-config,etc/common.cfg,$(ETC)/common.cfg)
	install -d $(APACHE) $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(SYSCONFDIR)/logrotate.d
	# No example next to it: logrotate would read that, too.
	[ -e $(DESTDIR)$(SYSCONFDIR)/logrotate.d/vgrid ] || \
		install -m 644 etc/logrotate.d/vgrid $(DESTDIR)$(SYSCONFDIR)/logrotate.d/vgrid
	for f in $(filter-out registry,$(call programs,cli)); do \
		install -m 755 $(PROGRAMS)/vgrid-$$f $(DESTDIR)$(PREFIX)/bin/vgrid-$$f || exit 1; done

# Create the registry on a machine that had no server.cfg before. Not in a package, whose postinst does
# that, and not where there was a portal: there, a missing registry must be restored.
NEW_PORTAL := $(if $(DESTDIR)$(wildcard $(ETC)/server.cfg),,yes)

install-server: install-common source
	install -m 755 $(PROGRAMS)/vgrid-registry $(DESTDIR)$(PREFIX)/bin/vgrid-registry
	$(call install-cgi,user,$(call programs,user))
	$(call install-cgi,internal,$(call programs,internal))
	install -d $(SHARE)/templates/page
	install -m 644 templates/page/*.html $(SHARE)/templates/page/
	install -d $(SHARE)/templates/mail
	install -m 644 templates/mail/* $(SHARE)/templates/mail/
	cd resources && find . -type d -exec install -d $(abspath $(SHARE))/resources/{} \;
	cd resources && find . -type f -exec install -m 644 {} $(abspath $(SHARE))/resources/{} \;
	install -m 644 $(PROGRAMS)/vgrid-source.tar.gz $(SHARE)/resources/vgrid-source.tar.gz
	$(call install-config,etc/server.cfg,$(ETC)/server.cfg)
	$(call install-config,apache/htaccess.basic,$(ETC)/htaccess)
	for f in basic shibboleth certificate; do install -m 644 apache/htaccess.$$f $(ETC)/htaccess.$$f || exit 1; done
	ln -sfn $(SYSCONFDIR)/vgrid/htaccess $(LIB)/cgi-bin/user/.htaccess
	install -m 644 apache/vgrid-server.conf $(APACHE)/vgrid-server.conf
	for f in $(call programs,cron); do \
		install -m 755 $(PROGRAMS)/vgrid-$$f $(DESTDIR)$(PREFIX)/bin/vgrid-$$f || exit 1; done
	if [ -n "$(NEW_PORTAL)" ] && [ "$$(id -u)" = 0 ] && id www-data >/dev/null 2>&1; then \
		install -d -o www-data -g www-data -m 700 /var/lib/vgrid && \
		VGRID_CONFIG_DIR=$(ETC) $(PREFIX)/bin/vgrid-registry init || exit 1; fi
	$(call install-config,cron/vgrid,$(DESTDIR)$(SYSCONFDIR)/cron.d/vgrid)

install-node: install-common
	$(call install-cgi,node,$(call programs,node))
	install -m 755 $(PROGRAMS)/vgrid-helper $(LIB)/vgrid-helper
	install -m 755 $(PROGRAMS)/vgrid-worker $(LIB)/vgrid-worker
	install -m 755 bin/node/pvgrub $(LIB)/vgrid-pvgrub
	install -m 755 bin/node/pcgrub $(LIB)/vgrid-pcgrub
	$(call install-config,etc/node.cfg,$(ETC)/node.cfg)
	$(foreach t,$(notdir $(wildcard vmtmpl/*)),$(call install-config,vmtmpl/$(t),$(ETC)/vmtmpl/$(t)) &&) true
	install -d -m 755 $(DESTDIR)$(SYSCONFDIR)/sudoers.d
	install -m 440 etc/sudoers.d/vgrid $(DESTDIR)$(SYSCONFDIR)/sudoers.d/vgrid
	install -m 644 apache/vgrid-node.conf $(APACHE)/vgrid-node.conf

# The source of the installed version. Every page links to it, as the license requires.
source:
	install -d $(PROGRAMS)
	if git rev-parse --git-dir >/dev/null 2>&1; \
	then git archive --prefix=vgrid/ -o $(PROGRAMS)/vgrid-source.tar.gz HEAD; \
	else tar -czf $(PROGRAMS)/vgrid-source.tar.gz --exclude=./target --transform 's,^\.,vgrid,' .; fi

clean:
	$(CARGO) clean
