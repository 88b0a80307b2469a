#!/usr/bin/env bash
# Everything about a release that can be checked on one machine: `check.sh FOLDER [PART...]`.
#
#   version    one version, in Cargo.toml and in CHANGELOG.md
#   workflows  .github/workflows against their schema and for what attackers use
#   crates     licences, bans and sources of all crates
#   wheels     the wheels for Linux, built twice: one hash each
#   sdist      the source distribution, which must build
#   audit      what the wheels need of a system, their use of Python's stable ABI, their description
#   bare       the wheel for x86-64 on Debian 12 and sid, with nothing else: the public
#              challenge, a training run, the golden run
#
# Needs what wheels.sh needs, and `cargo install cargo-deny --locked`. Settings: TOOLS, the programs of the extra `release` of
# pyproject.toml.
set -euo pipefail

release=$(cd "$(dirname "$0")" && pwd)
. "$release/../debian_root.sh"
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
parts=${*:-version workflows crates wheels sdist audit bare}
TOOLS=${TOOLS:-$here/.venv-release/bin}
dist=$folder/built/dist
cd "$here"

version() {
  local found
  found=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
  echo "version $found"
  grep -q "^## $found\b" CHANGELOG.md || fail "CHANGELOG.md has no section of version $found" "name what is new since the last"
  for manifest in rust/kernels rust/core rust/models rust/py bench; do
    grep -q '^version.workspace = true' "$manifest/Cargo.toml" || fail "$manifest has its own version" "version.workspace = true"
  done
  grep -q '^dynamic = \["version"\]' pyproject.toml || fail "pyproject.toml has a version" "dynamic = [\"version\"]"
}

workflows() {
  "$TOOLS/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
  "$TOOLS/zizmor" --offline --quiet .github/workflows
}

crates() {
  cargo deny --version >/dev/null 2>&1 || fail "cargo-deny not found" "cargo install cargo-deny --locked"
  cargo deny --locked --offline check --config tests/release/deny.toml licenses bans sources
}

wheels() {
  for build in first second; do
    rm -rf "$folder/built"
    "$release/wheels.sh" "$folder"
    (cd "$dist" && sha256sum -- *.whl) > "$folder/$build"
  done
  cat "$folder/first"
  cmp "$folder/first" "$folder/second" || fail "two builds have other bytes" "diffoscope names the difference"
}

sdist() {
  SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$TOOLS/maturin" sdist --out "$dist"
  "$TOOLS/python" -m venv --clear "$folder/sdist"
  "$folder/sdist/bin/pip" install --quiet "$dist"/symlm-*.tar.gz
  (cd "$folder" && sdist/bin/symlm doctor --prove)
}

audit() {
  ls -l "$dist"
  "$TOOLS/twine" check --strict "$dist"/*
  "$TOOLS/abi3audit" --strict "$dist"/*.whl
  for wheel in "$dist"/*.whl; do "$TOOLS/auditwheel" show "$wheel"; done
}

bare() {
  for suite in bookworm sid; do
    local bare=$folder/bare-$suite
    if [ ! -e "$bare/.complete" ]; then
      rm -rf "$bare"
      debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$bare" "$MIRROR"
      touch "$bare/.complete"
    fi
    cp -r "$dist"/symlm-*x86_64.whl tests pyproject.toml "$bare/root"
    unshare --mount --propagation private sh -c 'mount -t proc proc "$1/proc" && exec chroot "$1" sh -ec "$2"' sh "$bare" '
      cd /root; rm -rf runs; python3 -m venv --clear venv
      venv/bin/pip install --quiet symlm-*.whl
      venv/bin/symlm doctor --prove
      venv/bin/symlm train --out-dir runs/demo --max-steps 20
      venv/bin/symlm generate runs/demo --prompt "def " --seed 1
      venv/bin/pip install --quiet pytest hypothesis
      venv/bin/python -m pytest -q tests/test_golden_run.py'
  done
}

for part in $parts; do
  echo "== $part"
  case $part in
    version | workflows | crates | wheels | sdist | audit | bare) "$part" ;;
    *) fail "found part $part" "name some of version, workflows, crates, wheels, sdist, audit, bare" ;;
  esac
done
