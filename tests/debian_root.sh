# Sourced by the scripts that build for other systems: a root file system of Debian sid with its compilers.
#
# Needs root (chroot), debootstrap, unshare and Debian's archive; crates come from ~/.cargo/registry, so `cargo fetch` comes
# first. Settings: MIRROR=http://deb.debian.org/debian.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MIRROR=${MIRROR:-http://deb.debian.org/debian}

fail() {
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit 2
}

# Makes `$root`, or makes it again if it was cut short; the caller then installs what it needs.
make_root() {
  [ "$(id -u)" = 0 ] || fail "this user is not root, which chroot needs" "run it with sudo, or in a container"
  [ -d ~/.cargo/registry ] || fail "no crates in ~/.cargo/registry" "cargo fetch --locked"
  [ ! -e "$root/.complete" ] || return 0
  for needed in debootstrap unshare python3; do
    command -v "$needed" >/dev/null || fail "$needed not found" "apt-get install debootstrap util-linux python3-venv"
  done
  rm -rf "$root"
  debootstrap --variant=minbase sid "$root" "$MIRROR"
  echo 'Acquire::Check-Valid-Until "false"; APT::Install-Recommends "false";' > "$root/etc/apt/apt.conf.d/90symlm"
  chroot "$root" apt-get update -q
  touch "$root/.complete"
}

# Does something to `$root` once: `once NAME FUNCTION`.
once() {
  [ ! -e "$root/.$1" ] || return 0
  "$2"
  touch "$root/.$1"
}

packages() {
  chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -qy "$@"
  chroot "$root" apt-get clean
}

# Runs a shell script in the file system, with the sources, the crates, and room for what is built (`$folder/built`) and for
# files that both sides see under one name (`$folder/shared`). The mounts are seen there only.
inside() {
  mkdir -p "$root/src" "$root/crates" "$root/built" "$root$folder/shared" "$folder/built" "$folder/shared"
  unshare --mount --propagation private sh -c '
    mount --bind "$1" "$3/src" && mount --bind ~/.cargo/registry "$3/crates" && mount --bind "$2/built" "$3/built" &&
    mount -t tmpfs tmp "$3/tmp" && mkdir -p "$3$2/shared" && mount --bind "$2/shared" "$3$2/shared" &&
    mount -t proc proc "$3/proc" && mount --bind /dev "$3/dev" &&
    exec chroot "$3" /bin/sh -ec "
      export HOME=/root CARGO_HOME=/root/.cargo CARGO_TARGET_DIR=/built CARGO_NET_OFFLINE=true
      export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
      export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=\"qemu-aarch64 -L /usr/aarch64-linux-gnu\"
      export PYTHONPATH=/built/python:/opt/site:/src/tests PYTHONDONTWRITEBYTECODE=1
      mkdir -p /root/.cargo; ln -sfn /crates /root/.cargo/registry; cd /src
      $4"' sh "$here" "$folder" "$root" "$1"
}
