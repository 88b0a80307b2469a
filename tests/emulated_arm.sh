#!/usr/bin/env bash
# Builds symlm for Linux on aarch64 and checks it under qemu-user: kernels and their assembly on NEON and portable, the
# golden run, and runs of 20 updates that change their processor in the middle.
#
# `emulated_arm.sh FOLDER [PART...]`: FOLDER keeps a root file system of Debian sid with compilers, qemu and a Python for
# aarch64 (2.5 GB), and what is built there. Parts: kernels, golden, change (runs that change their processor), doctor, and
# pytest, which runs the tests of emulated_arm.txt; all but the last without names.
#
# Needs what debian_root.sh says, and python3 with pip and PyPI. Settings: HOST_PYTHON=.venv/bin/python with symlm for this
# machine; KEEP=1 takes the extension that was built last, however old; TESTS, other tests than those of emulated_arm.txt.
set -euo pipefail

. "$(dirname "$0")/debian_root.sh"
folder=$(mkdir -p "$1" && cd "$1" && pwd)
shift
parts=${*:-kernels golden change doctor}
HOST_PYTHON=${HOST_PYTHON:-$here/.venv/bin/python}
root=$folder/root
target=aarch64-unknown-linux-gnu

arm_compilers() {
  chroot "$root" dpkg --add-architecture arm64
  chroot "$root" apt-get update -q
  packages rustc cargo libstd-rust-dev:arm64 gcc gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev:arm64 qemu-user
}

# The other Python is unpacked, not installed: its scripts would need a kernel that starts programs for aarch64.
arm_python() {
  chroot "$root" apt-get clean
  chroot "$root" apt-get install -qy --download-only python3:arm64 libstdc++6:arm64
  for package in "$root"/var/cache/apt/archives/*_arm64.deb; do
    chroot "$root" dpkg -x "/var/cache/apt/archives/$(basename "$package")" /arm
  done
  chroot "$root" apt-get clean
  version=$(basename "$root"/arm/usr/lib/python3.?? | tr -d 'a-z')
  python3 -m pip install --quiet --target "$root/opt/site" --only-binary :all: --implementation cp --python-version "$version" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    'numpy>=1.26' 'rich>=13.7' 'click>=8.1' 'tokenizers>=0.23.2,<0.24' pytest hypothesis
  # What `sys.executable` names is started by the machine's kernel, so it is a script that starts qemu.
  cat > "$root/usr/bin/arm-python" <<END
#!/bin/sh
exec qemu-aarch64 -L /arm /arm/usr/bin/python$version "\$@"
END
  chmod +x "$root/usr/bin/arm-python"
  echo 'import sys; sys.executable = "/usr/bin/arm-python"' > "$root/opt/site/sitecustomize.py"
}

make_root
once arm-compilers arm_compilers
once arm-python arm_python

# The package: this tree's sources, with the extension for aarch64.
package() {
  [ -z "${packaged:-}" ] || return 0
  [ -n "${KEEP:-}" ] ||
    inside "CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 cargo build --locked --release --target $target -p symlm-py"
  rm -rf "$folder/built/python"
  mkdir -p "$folder/built/python"
  cp -r "$here/python/symlm" "$folder/built/python/symlm"
  cp "$folder/built/$target/release/lib_symlm.so" "$folder/built/python/symlm/_symlm.abi3.so"
  packaged=yes
}

for part in $parts; do
  echo "== $part"
  case $part in
    kernels)
      inside "SYMLM_TEST_ISAS=neon,portable cargo test --locked --target $target -p symlm-kernels"
      ;;
    golden | change)
      "$HOST_PYTHON" -c 'import symlm' || fail "$HOST_PYTHON has no symlm" "make install, or set HOST_PYTHON"
      package
      rm -rf "$folder/shared" && mkdir "$folder/shared"
      # Programs that start this one see the files of `shared` under the same names as here.
      { declare -p here folder root; declare -f inside; echo 'inside "exec arm-python /src/${1#"$here"/} ${*:2}"'; } > "$folder/arm"
      sed -i '1i #!/usr/bin/env bash' "$folder/arm" && chmod +x "$folder/arm"
      PYTHONPATH=$here/tests "$HOST_PYTHON" "$here/tests/emulated_arm.py" "$part" "$folder/shared" "$folder/arm"
      ;;
    doctor)
      package
      inside "arm-python -m symlm doctor; for isa in neon portable; do SYMLM_ISA=\$isa arm-python -m symlm doctor --prove; done"
      ;;
    pytest)
      package
      tests=${TESTS:-$(sed 's/ *#.*//' "$here/tests/emulated_arm.txt" | tr '\n' ' ')}
      # A processor without SVE: on the one that qemu has by default, NumPy's products of matrices, which the tests compare
      # with, are wrong.
      inside "export QEMU_CPU=${QEMU_CPU:-neoverse-n1}; arm-python -m pytest -v -p no:cacheprovider --durations=10 $tests"
      ;;
    *)
      fail "found part $part, expected kernels, golden, change, doctor or pytest" "name one of them"
      ;;
  esac
done
