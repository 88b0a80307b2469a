#!/usr/bin/env bash
# Builds the wheels for Linux, the same bytes every time: in a root file system of Debian sid, where every path is the same
# on each machine, with the time of the last commit. Zig links them against the oldest glibc that Rust supports.
#
# `wheels.sh FOLDER [TARGET...]`: FOLDER keeps the file system and the wheels (FOLDER/built/dist).
#
# Needs what debian_root.sh says, and python3 with pip and PyPI. The standard library of musl, macOS and Windows is not packaged:
# their wheels come from .github/workflows/release.yml.
set -euo pipefail

. "$(dirname "$0")/../debian_root.sh"
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
targets=${*:-x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu}
root=$folder/root

compilers() {
  chroot "$root" dpkg --add-architecture arm64
  chroot "$root" apt-get update -q
  packages rustc cargo libstd-rust-dev:arm64 gcc libc6-dev python3
}

linkers() {
  version=$(basename "$root"/usr/lib/python3.?? | tr -d 'a-z')
  python3 -m pip install --quiet --target "$root/opt/tools" --only-binary :all: --implementation cp --python-version "$version" \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 'maturin>=1.8,<2' ziglang
}

make_root
once wheel-compilers compilers
once wheel-linkers linkers
rm -rf "$folder/built/dist"
time=$(git -C "$here" log -1 --format=%ct)
for target in $targets; do
  echo "== $target"
  inside "
    export PYTHONPATH=/opt/tools PATH=/opt/tools/bin:\$PATH SOURCE_DATE_EPOCH=$time
    export ZIG_GLOBAL_CACHE_DIR=/built/zig CARGO_ZIGBUILD_CACHE_DIR=/built/zigbuild
    maturin build --release --locked --zig --compatibility manylinux_2_17 --target $target --out /built/dist"
done
