#!/bin/sh
# What must be there before the host program (`tools`) can be compiled at all: a Rust toolchain with the project's
# targets, and a C compiler for cargo to link with. Everything later is checked by `tools setup`.
#
# Quiet and quick when all is well. What may go wrong: no rustup (a distribution's Rust rarely has the bare-metal
# targets), no right to install a package; each ends in a message that names the packages.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
targets='x86_64-unknown-none x86_64-unknown-uefi x86_64-unknown-linux-musl i686-unknown-linux-gnu'

say() { printf 'setup: %s\n' "$*" >&2; }

# All that the project needs besides Rust, named at whatever stops first.
packages() {
    say "    apt:    gcc libc6-dev qemu-system-x86 ovmf"
    say "    dnf:    gcc glibc-devel qemu-system-x86-core edk2-ovmf"
    say "    pacman: gcc qemu-system-x86 edk2-ovmf"
    say "    macOS:  xcode-select --install; brew install qemu"
}

if ! command -v cargo >/dev/null 2>&1; then
    PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
    export PATH
fi

if ! command -v cargo >/dev/null 2>&1; then
    say "Rust is missing. Install it with rustup, https://rustup.rs :"
    say "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    say "then open a new shell (or: . \"\$HOME/.cargo/env\") and try again. Also needed, if not there yet:"
    packages
    exit 1
fi

cd "$root"

# The targets whose `core` the toolchain in use lacks.
missing_targets() {
    sysroot=$(rustc --print sysroot)
    for target in $targets; do
        [ -d "$sysroot/lib/rustlib/$target" ] || printf '%s ' "$target"
    done
}

if command -v rustup >/dev/null 2>&1; then
    # The first call of rustc here makes rustup fetch what rust-toolchain.toml names, and says so.
    missing=$(missing_targets)
    if [ -n "$missing" ]; then
        say "adding Rust targets: $missing"
        # shellcheck disable=SC2086  # a list
        rustup target add $missing </dev/null >&2
    fi
    # Images are made without debug information by it. A toolchain that was there before is not made whole by itself.
    if ! ls "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-objcopy >/dev/null 2>&1; then
        say "adding the Rust component llvm-tools"
        rustup component add llvm-tools </dev/null >&2 || say "without it, objcopy of binutils does its work"
    fi
else
    missing=$(missing_targets)
    if [ -n "$missing" ]; then
        say "this Rust ($(command -v cargo)) comes from a distribution, without rustup, and lacks: $missing"
        say "Switchyard needs the toolchain that rust-toolchain.toml names; rustup fetches it by itself:"
        say "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
        say "It can live beside the distribution's packages (put ~/.cargo/bin first on PATH)."
        exit 1
    fi
fi

if ! command -v cc >/dev/null 2>&1; then
    # The same rules as in `tools setup`: sudo asks for a password only where somebody sits at a terminal (it reads it
    # from there, not from standard input), and hands on no environment, hence `env`.
    if ! command -v apt-get >/dev/null 2>&1; then
        apt=''
    elif [ "$(id -u)" = 0 ]; then
        apt='env DEBIAN_FRONTEND=noninteractive apt-get'
    elif sudo -n true >/dev/null 2>&1; then
        apt='sudo -n env DEBIAN_FRONTEND=noninteractive apt-get'
    elif command -v sudo >/dev/null 2>&1 && [ -t 2 ] && (: </dev/tty) 2>/dev/null; then
        apt='sudo env DEBIAN_FRONTEND=noninteractive apt-get'
    else
        apt=''
    fi
    if [ -z "$apt" ]; then
        say "a C compiler is missing (cargo links with it). Install it, and QEMU and OVMF with it, which come next:"
        packages
        exit 1
    fi
    say "installing a C compiler for cargo to link with (apt: gcc libc6-dev); sudo may ask for your password"
    $apt update -q </dev/null >&2 || true
    $apt install -y -q --no-install-recommends gcc libc6-dev </dev/null >&2
fi
