#!/usr/bin/env bash
# Runs programs on an emulated processor with AVX-512, by Bochs: `emulated.sh JOB FILE...` boots a Linux kernel whose first
# process runs the shell script JOB with the files in the current folder; its output is ours, and so is its exit code.
#
# Settings: KERNEL=/boot/vmlinuz-..., CPU_MODEL=corei7_skylake_x (bochs -help cpu), TIMEOUT=10800 (seconds).
set -euo pipefail

KERNEL=${KERNEL:-$({ find /boot -maxdepth 1 -name 'vmlinuz-*' 2>/dev/null || true; } | sort -V | tail -n 1)}
CPU_MODEL=${CPU_MODEL:-corei7_skylake_x}
TIMEOUT=${TIMEOUT:-10800}
ISOLINUX=/usr/lib/ISOLINUX/isolinux.bin
LDLINUX=/usr/lib/syslinux/modules/bios/ldlinux.c32

for needed in /usr/bin/bochs-bin /usr/bin/xorriso /usr/bin/cpio /bin/busybox "$ISOLINUX" "$LDLINUX" "${KERNEL:-/boot/vmlinuz}"; do
  if [ ! -r "$needed" ]; then
    echo "error: $needed is not there or cannot be read" >&2
    echo "hint: apt-get install bochs isolinux syslinux-common xorriso cpio busybox-static linux-image-cloud-amd64" >&2
    exit 2
  fi
done

work=$(mktemp -d)
emulator=
stop() {
  [ -z "$emulator" ] || kill -9 "$emulator" 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

# The file system: busybox, the files, the libraries that they need.
root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,job,files}
cp /bin/busybox "$root/bin/busybox"
cp "$1" "$root/job/job"
shift
for file in "$@"; do
  cp "$file" "$root/files/"
  strip --strip-debug "$root/files/$(basename "$file")" 2>/dev/null || true
  { ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true; } | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -Lu "$library" "$root$library"
  done
done
cat > "$root/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
stty -onlcr -F /dev/ttyS0
exec > /dev/ttyS0 2>&1 < /dev/null
cd /files; sh /job/job
echo "@@ended $?"
sleep 2  # the serial port is slow to drain
poweroff -f
END
chmod +x "$root/init"
mkdir -p "$work/iso/isolinux"
(cd "$root" && find . | cpio -o -H newc --quiet) > "$work/iso/initrd"
cp "$ISOLINUX" "$LDLINUX" "$work/iso/isolinux/"
cp "$KERNEL" "$work/iso/vmlinuz"
# Bochs 2.7 names a size of the compacted save area that the kernel does not agree with, and would do without AVX for it.
cat > "$work/iso/isolinux/isolinux.cfg" <<'END'
default l
prompt 0
label l
 kernel /vmlinuz
 initrd /initrd
 append console=ttyS0,115200 quiet loglevel=3 clearcpuid=xsavec,xsaves mitigations=off nokaslr tsc=reliable no_timer_check lpj=4000000 random.trust_cpu=on nowatchdog
END
xorriso -as mkisofs -quiet -o "$work/cd.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
  -boot-info-table "$work/iso" 2>/dev/null

cat > "$work/bochsrc" <<END
display_library: term
config_interface: textconfig
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=$CPU_MODEL, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=768, host=768
clock: sync=none, time0=local
pci: enabled=1, chipset=i440fx
ata0: enabled=1
ata0-master: type=cdrom, path=$work/cd.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
log: $work/bochs.log
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
END
echo c > "$work/debugger"
: > "$work/serial"
(cd "$work" && exec bochs-bin -q -f bochsrc -rc debugger > bochs.out 2>&1 < /dev/null) &
emulator=$!
tail -n +1 -f --pid="$emulator" "$work/serial" 2>/dev/null | sed -u 's/\r$//' &
printer=$!
ended='^@@ended|Kernel panic'
until=$(($(date +%s) + TIMEOUT))
while kill -0 "$emulator" 2>/dev/null && ! grep -Eq "$ended" "$work/serial"; do
  sleep 1
  if [ "$(date +%s)" -gt "$until" ]; then
    echo "error: not at its end after $TIMEOUT s" >&2
    break
  fi
done
sleep 3
kill -9 "$emulator" 2>/dev/null || true
wait "$printer" 2>/dev/null || true
status=$(tr -d '\r' < "$work/serial" | awk '/^@@ended/ { print $2 }')
if [ -z "$status" ]; then
  tail -n 5 "$work/bochs.log" "$work/bochs.out" >&2
  exit 1
fi
exit "$status"
