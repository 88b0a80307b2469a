#!/usr/bin/env bash
# Checks the types of the code for systems that are not at hand: macOS and Windows.
#
# `check_systems.sh FOLDER [TARGET...]`: FOLDER keeps a root file system of Debian sid (debian_root.sh). Debian packages no
# standard library for these targets, so it is built from its sources. Nothing is linked, so the compilers that the C libraries
# among the crates ask for do nothing.
#
# Needs what debian_root.sh says; crates of the standard library come from crates.io.
set -euo pipefail

. "$(dirname "$0")/debian_root.sh"
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
targets=${*:-aarch64-apple-darwin x86_64-apple-darwin x86_64-pc-windows-gnu}
root=$folder/root

compilers() {
  packages rustc cargo rust-src rust-clippy gcc libc6-dev binutils-mingw-w64-x86-64
}

make_root
once checking compilers
RUSTC_BOOTSTRAP=1 cargo fetch --quiet --locked --manifest-path "$root/usr/lib/rustlib/src/rust/library/Cargo.toml"
for target in $targets; do
  echo "== $target"
  inside "
    export RUSTC_BOOTSTRAP=1 TARGET_CC=true TARGET_CXX=true TARGET_AR=true CARGO_INCREMENTAL=0
    export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0
    cargo clippy --locked -Zbuild-std=std --target $target -p symlm-core -p symlm-py -- -D warnings"
done
