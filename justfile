# Every recipe a person runs. `./justw RECIPE` works with nothing prepared; `just RECIPE` where `just` is installed.
# Variables go before the recipe: `./justw cpus=8 mem=1G qemu-smp`.

# CPUs of the machine; more than 255 need cpu=max,+x2apic
cpus := "4"
# its memory, in QEMU's notation
mem := "512M"
# QEMU's CPU model (`qemu-system-x86_64 -cpu help`)
cpu := "max"
# auto, kvm or tcg
accel := "auto"
# QEMU's display: none, gtk, sdl, cocoa
display := "none"
# what starts the system: uefi, bios (GRUB, from build/bios.iso), or direct (QEMU itself, the fastest)
firmware := "uefi"
# the kernel's command line; empty: as in limine.cfg
cmdline := ""
# part of a machine test's name (`suite/4`, `shell`); empty: all
filter := ""
# a folder with stock Limine's BOOTX64.EFI, to use in place of the project's own loader
LIMINE_DIR := env_var_or_default("LIMINE_DIR", "")

# the same, seen from where the user stands
limine_dir := if LIMINE_DIR == "" { "" } else { join(invocation_directory(), LIMINE_DIR) }

# rustup's folder is often missing from the PATH of a fresh login or a CI job.
cargo_home := env_var_or_default("CARGO_HOME", env_var_or_default("HOME", "/root") + "/.cargo")
export PATH := env_var_or_default("PATH", "/usr/local/bin:/usr/bin:/bin") + ":" + cargo_home + "/bin"

tools := "cargo run --quiet --package tools --"

# List the recipes
default:
    @just --justfile "{{justfile()}}" --list

# Check for QEMU, OVMF, GRUB's tools and the Rust targets, and install what is missing where that is possible
setup: _tools
    @{{tools}} setup --everything

# What a machine in QEMU needs.
_machine: _tools
    @{{tools}} setup

# The host program behind the recipes; its stdin is not the recipe's.
_tools:
    @sh tools/bootstrap.sh < /dev/null
    @cargo build --package tools < /dev/null

# Build the loader, the kernel and the user programs
build: _tools
    @{{tools}} build < /dev/null

# Make build/switchyard.img, the image that QEMU boots and that goes on a USB stick
image: _tools
    @{{tools}} image --cmdline "{{cmdline}}" --limine-dir "{{limine_dir}}" < /dev/null

# Make build/bios.iso, the image for machines without UEFI (a CD's, which also starts from a USB stick)
bios-image: setup
    @{{tools}} bios --cmdline "{{cmdline}}" < /dev/null

# Boot in QEMU with several CPUs (cpus=4 mem=512M cpu=max accel=auto display=none firmware=uefi cmdline=); stdin may be a pipe
qemu-smp: _machine
    @{{tools}} run --cpus "{{cpus}}" --mem "{{mem}}" --cpu "{{cpu}}" --accel "{{accel}}" --display "{{display}}" --firmware "{{firmware}}" --cmdline "{{cmdline}}" --limine-dir "{{limine_dir}}"

# Boot in QEMU with one CPU
qemu: _machine
    @{{tools}} run --cpus 1 --mem "{{mem}}" --cpu "{{cpu}}" --accel "{{accel}}" --display "{{display}}" --firmware "{{firmware}}" --cmdline "{{cmdline}}" --limine-dir "{{limine_dir}}"

# Run every test: on the host, then in machines; the last line is the count
test: setup
    @{{tools}} test --filter "{{filter}}" < /dev/null

# Run the tests of libraries and tools on the host
test-host: _tools
    @{{tools}} test --only host < /dev/null

# Run the tests that boot machines (filter=NAME for some of them, cmdline= for more words to the kernel)
test-machine: setup
    @{{tools}} test --only machine --filter "{{filter}}" --cmdline "{{cmdline}}" < /dev/null

# List the machine tests by name
test-list: _tools
    @{{tools}} test --list < /dev/null

# Count guest instructions per operation, beside others' and the last accepted: a table, build/bench.json, build/bench-steps.txt
bench: _machine
    @{{tools}} bench < /dev/null

# The same, and make it what later runs are compared with: bench/results.json, which is to be committed
bench-accept: _machine
    @{{tools}} bench --accept < /dev/null

# How costs grow, from 2 to 10,000 threads, with 100,000 handles, from 1 to 64 CPUs, beside the last accepted: tables, build/bench-scale.json
bench-scale: _machine
    @{{tools}} bench-scale < /dev/null

# The same, and make it what later runs are compared with: bench/scale.json, which is to be committed
bench-scale-accept: _machine
    @{{tools}} bench-scale --accept < /dev/null

# What Debian's own kernel takes for the like in the same QEMU, into bench/linux.json (downloads its package into build/linux)
bench-linux: _machine
    @{{tools}} bench-linux < /dev/null

# The longest stretches of instructions with interrupts off, into build/bench-stretches.txt and a table
bench-stretches: _machine
    @cargo run --quiet --config profile.dev.package.tools.opt-level=1 --package tools -- bench-stretches < /dev/null

# Random system calls by many programs, with the kernel's checks on (seed=N calls=N cpus=N; a seed that failed fails again)
grind *words: _machine
    @{{tools}} grind {{words}} < /dev/null

# Look for inputs that the readers of ELF files, manifests, archives, limine.conf or calls can't bear (target=NAME seconds=60)
fuzz *words: _tools
    @{{tools}} fuzz {{words}} < /dev/null

# Time what runs in a Linux process (a round trip to user code, the register switch) beside its peers
bench-native: _tools
    cargo bench --quiet --package bench-native --bench native -- --noplot < /dev/null

# Boot, type a few commands and save the framebuffer console as a picture
screenshot path="docs/src/images/console.png": _machine
    @{{tools}} screenshot "{{path}}" --cpus "{{cpus}}" --mem "{{mem}}" --cpu "{{cpu}}" --accel "{{accel}}" --firmware "{{firmware}}" < /dev/null

# Check formatting, and run clippy on every package for its own target
lint: _tools
    cargo fmt --all --check
    @{{tools}} lint < /dev/null

# Make the tables of docs/src/calls.md of what stands in abi/
calls: _tools
    @{{tools}} calls < /dev/null

# Build the book in docs/ (needs mdbook, which is optional: nothing else uses it)
docs:
    @command -v mdbook > /dev/null || { echo "mdbook is not installed (it is optional): cargo install mdbook --locked" >&2; exit 1; }
    mdbook build docs

# Remove what was built (.tools, with just and QEMU 10, stays)
clean:
    cargo clean
    rm -rf build
