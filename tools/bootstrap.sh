#!/bin/sh
# What must be there before the host program (`tools`) can be compiled at all: a Rust toolchain with the project's
# targets, and a C compiler for cargo to link with. Everything later is checked by `tools setup`.
#
# Quiet and quick when all is well. What may go wrong: no rustup (a distribution's Rust rarely has the bare-metal
# targets), no right to install a package; each ends in a message that names the packages.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
targets='x86_64-unknown-none x86_64-unknown-uefi x86_64-unknown-linux-musl'

say() { printf 'setup: %s\n' "$*" >&2; }

if ! command -v cargo >/dev/null 2>&1; then
    PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
    export PATH
fi

if ! command -v cargo >/dev/null 2>&1; then
    say "Rust is missing. Install it with rustup, https://rustup.rs :"
    say "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    say "then open a new shell (or: . \"\$HOME/.cargo/env\") and try again."
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
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        sudo=''
    elif command -v apt-get >/dev/null 2>&1 && sudo -n true >/dev/null 2>&1; then
        sudo='sudo -n'
    else
        say "a C compiler is missing (cargo links with it). Install:"
        say "    apt: gcc libc6-dev    dnf: gcc glibc-devel    pacman: gcc    macOS: xcode-select --install"
        exit 1
    fi
    say "installing a C compiler for cargo to link with (apt: gcc libc6-dev)"
    $sudo apt-get update -q </dev/null >&2 || true
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends gcc libc6-dev </dev/null >&2
fi
