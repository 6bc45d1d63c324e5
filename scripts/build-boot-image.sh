#!/bin/bash
# Builds a small disk image that boots with BIOS (V1) and UEFI (V2), for tests and the demo.
# Usage: build-boot-image.sh OUTPUT.raw [--variant NAME]
#
# Needs no root, no mounts, no loop devices, but these packages:
#   apt-get install busybox-static dropbear-bin syslinux syslinux-efi mtools dosfstools cpio openssl zstd
# and apt's package lists, from which it downloads the kernel and the agent. Does nothing when OUTPUT.raw is there.
#
# The guest takes host name, user and SSH keys from a cloud-init NoCloud seed (an ISO with a file
# meta-data), serves SSH on port 22, runs the QEMU guest agent, and prints on ttyS0:
#   READY <host name> <first 16 hex digits of the SHA-256 of its payload> version=<NAME> boots=<N>
# The payload is 16 MiB that do not compress; its whole SHA-256 is written to OUTPUT.raw.payload.
# A variant differs only in its version file, as the next version of an image would. In the guest,
# /disk is the partition, writable; it holds the SSH host key and counts the boots.
set -euo pipefail
export LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH=1700000000 MTOOLS_SKIP_CHECK=1 PATH=$PATH:/usr/sbin:/sbin
shopt -s inherit_errexit

disk_mib=48
payload_mib=16
partition_sector=2048
variant=base
output=
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() { echo "$1" >&2; exit 1; }
while [ $# -gt 0 ]; do
  case $1 in
    --variant) [ $# -ge 2 ] || usage; variant=$2; shift 2 ;;
    -*) usage ;;
    *) output=$(realpath -m "$1"); shift ;;
  esac
done
[ -n "$output" ] || usage
[[ $variant =~ ^[A-Za-z0-9._-]{1,40}$ ]] || fail "A variant's name is 1-40 letters, digits, dots or dashes."
if [ -f "$output" ] && [ -f "$output.payload" ]; then exit 0; fi

for tool in busybox dropbear dropbearkey syslinux mcopy mkfs.fat cpio openssl zstd; do
  command -v $tool > /dev/null || fail "$tool is missing: apt-get install busybox-static dropbear-bin \
syslinux syslinux-efi mtools dosfstools cpio openssl zstd"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/boot-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$(dirname "$output")" "$root"/{bin,dev,disk,etc/acpi/PWRF,home,modules,proc,root/.ssh,run,seed,sys,tmp,var/log}

# Debian's kernel for virtual machines, or Ubuntu's, whose modules are a package of their own.
fetch_kernel() {
  local meta image packages package
  for meta in linux-image-cloud-amd64 linux-image-virtual; do
    image=$(apt-cache depends "$meta" 2> /dev/null | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
    [ -z "$image" ] || break
  done
  [ -n "$image" ] || fail "apt knows no kernel package. Run apt-get update first."
  packages=("$image")
  [ "$meta" != linux-image-virtual ] || packages+=("${image/image/modules}")
  (cd "$work" && apt-get -q download "${packages[@]}" > download.log 2>&1) || fail "$(cat "$work/download.log")"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/kernel"; rm "$package"; done
}

# Copies the named modules and what they depend on, and lists them in the order of loading.
add_modules() {
  local name file depends
  for name in "$@"; do
    [ ! -f "$root/modules/$name.ko" ] || continue
    file=$(find "$work/kernel" \( -name "$name.ko*" -o -name "${name//_/-}.ko*" \) -print -quit)
    [ -n "$file" ] || continue  # built into this kernel
    case $file in
      *.zst) zstd -qdc "$file" ;;
      *.xz) xz -dc "$file" ;;
      *) cat "$file" ;;
    esac > "$root/modules/$name.ko"
    depends=$(tr '\0' '\n' < "$root/modules/$name.ko" | sed -n 's/^depends=//p' | tr ',\n' '  ')
    add_modules $depends
    echo "$name.ko" >> "$root/modules/order"
  done
}

# Copies a program and the shared libraries it is linked to.
add_program() {
  local program library
  program=$(readlink -f "$(command -v "$1")")
  cp "$program" "$root/bin/$1"
  for library in $(ldd "$program" | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$library")"
    [ -f "$root$library" ] || cp -L "$library" "$root$library"
  done
}

# The guest agent, with the libraries that the root lacks. It is not installed here: a host may be somebody's guest.
fetch_agent() {
  local library
  (cd "$work" && apt-get -q download qemu-guest-agent > download.log 2>&1) || fail "$(cat "$work/download.log")"
  dpkg-deb -x "$work"/qemu-guest-agent_*.deb "$work/package"
  rm "$work"/qemu-guest-agent_*.deb
  mkdir "$work/agent"
  cp "$work/package/usr/sbin/qemu-ga" "$work/agent/"
  ! ldd "$work/agent/qemu-ga" | grep 'not found' >&2 || fail "The guest agent's libraries are missing: apt-get install qemu-utils"
  for library in $(ldd "$work/agent/qemu-ga" | grep -o '/[^ ]*'); do
    [ -f "$root$library" ] || cp -L "$library" "$work/agent/"
  done
}

write_init() {
  cat > "$root/init" << 'INIT'
#!/bin/sh
# Process 1: brings up the disk, the network and SSH, says READY, and waits.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/pts
mount -t devpts devpts /dev/pts
(cd /modules && for module in $(cat order); do insmod "$module"; done) 2> /dev/null

tries=0
while [ ! -b /dev/vda1 ] && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
mount -t vfat -o flush,noatime /dev/vda1 /disk
for device in /dev/vd[b-z] /dev/sr0; do
  [ -b $device ] && mount -t iso9660 -o ro $device /seed 2> /dev/null || continue
  [ -f /seed/meta-data ] && break
  umount /seed
done

# The seed is YAML, or JSON with a key a line; both are read here without a parser.
seeded() { sed -n "s/^[ -]*\"\{0,1\}$1\"\{0,1\}: *[\"']\{0,1\}\([^\"', ]*\).*/\1/p" /seed/$2 2> /dev/null | head -n 1; }
name=$(seeded local-hostname meta-data)
user=$(seeded name user-data)
password=$(seeded hashed_passwd user-data)
hostname "${name:=localhost}"
echo "127.0.0.1 localhost $name" > /etc/hosts
echo "root:x:0:0:root:/root:/bin/sh" > /etc/passwd
echo "root:x:0:" > /etc/group
echo "root:*:19000:0:99999:7:::" > /etc/shadow
if [ -n "$user" ] && [ "$user" != root ]; then
  echo "$user:x:1000:1000:$user:/home/$user:/bin/sh" >> /etc/passwd
  echo "$user:x:1000:" >> /etc/group
  echo "$user:${password:-*}:19000:0:99999:7:::" >> /etc/shadow
  mkdir -p "/home/$user/.ssh"
fi
chmod 600 /etc/shadow
grep -hoE '(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp[0-9]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/=]+' /seed/user-data /seed/meta-data \
  2> /dev/null | sort -u > /root/.ssh/authorized_keys
chmod -R go= /root
if [ -d "/home/$user/.ssh" ]; then
  cp /root/.ssh/authorized_keys "/home/$user/.ssh/"
  chmod -R go= "/home/$user"
  chown -R 1000:1000 "/home/$user"
fi

boots=$(($(cat /disk/boots 2> /dev/null || echo 0) + 1))
echo $boots > /disk/boots
[ -s /disk/hostkey ] || dropbearkey -t ed25519 -f /disk/hostkey > /dev/null 2>&1
sync

ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -t 2 -T 1 -s /etc/udhcpc > /dev/null 2>&1 || ip addr add 10.0.2.15/24 dev eth0 2> /dev/null
dropbear -r /disk/hostkey -P /run/dropbear.pid ${password:--s} 2> /dev/null
acpid -c /etc/acpi -l /var/log/acpid 2> /dev/null

stop() { killall dropbear; sync; umount /disk; poweroff -f; }
trap stop USR2 TERM
payload=$(sha256sum /disk/payload.bin | cut -c 1-16)
echo "READY $name $payload version=$(cat /disk/version) boots=$boots uptime=$(cut -d ' ' -f 1 /proc/uptime)" > /dev/ttyS0

# It runs from memory, so that the disk can be unmounted.
port=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name 2> /dev/null | head -n 1)
if [ -n "$port" ]; then
  device=/dev/$(basename "$(dirname "$port")")
  (cp -r /disk/agent /run/ && LD_LIBRARY_PATH=/run/agent exec setsid /run/agent/qemu-ga -p "$device" -t /run) 2> /dev/null &
fi

while :; do setsid cttyhack sh < /dev/ttyS0 > /dev/ttyS0 2>&1; sleep 1; done &
while :; do wait; sleep 1; done
INIT
  cat > "$root/etc/udhcpc" << 'LEASE'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace "$ip/${mask:-24}" dev "$interface"
for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; break; done
for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf
LEASE
  printf '#!/bin/sh\nkill -USR2 1\n' > "$root/etc/acpi/PWRF/00000080"
  echo /bin/sh > "$root/etc/shells"
  chmod 755 "$root/init" "$root/etc/udhcpc" "$root/etc/acpi/PWRF/00000080"
}

fetch_kernel
add_modules virtio_pci virtio_blk virtio_net virtio_console vfat nls_cp437 nls_ascii isofs button evdev
add_program dropbear
add_program dropbearkey
cp "$(readlink -f "$(command -v busybox)")" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
fetch_agent
write_init
find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
(cd "$root" && find . | sort | cpio -o -H newc --quiet --reproducible -R 0:0) | zstd -19 -q > "$work/initrd"

cp "$(find "$work/kernel/boot" -name 'vmlinuz-*' -print -quit)" "$work/vmlinuz"
cat > "$work/syslinux.cfg" << 'CONFIG'
DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
  LINUX /vmlinuz
  INITRD /initrd
  APPEND console=ttyS0 quiet loglevel=1 panic=5 mitigations=off random.trust_cpu=on no_timer_check cryptomgr.notests audit=0
CONFIG
(openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 00 -in /dev/zero 2> /dev/null || true) \
  | head -c ${payload_mib}M > "$work/payload.bin"
echo "$variant" > "$work/version"
find "$work" "$work/agent" -maxdepth 1 -type f -exec touch -d "@$SOURCE_DATE_EPOCH" {} +

# One FAT partition at 1 MiB with clusters of 4 KiB, so that equal files are equal blocks of the image.
disk=$output.$$
trap 'rm -rf "$work" "$disk"' EXIT
rm -f "$disk"
truncate -s ${disk_mib}M "$disk"
mkfs.fat --invariant --offset $partition_sector -F 16 -s 8 -i 09a11e41 -n BOOT "$disk" $(((disk_mib - 1) * 1024)) > /dev/null
partition=$disk@@${partition_sector}s
mmd -i "$partition" ::/EFI ::/EFI/BOOT ::/agent
mcopy -m -i "$partition" "$work/vmlinuz" "$work/initrd" "$work/syslinux.cfg" "$work/payload.bin" "$work/version" ::/
mcopy -m -i "$partition" "$work"/agent/* ::/agent/
mcopy -m -i "$partition" "$work/syslinux.cfg" ::/EFI/BOOT/syslinux.cfg
mcopy -i "$partition" /usr/lib/syslinux/modules/efi64/ldlinux.e64 ::/EFI/BOOT/ldlinux.e64
mcopy -i "$partition" /usr/lib/SYSLINUX.EFI/efi64/syslinux.efi ::/EFI/BOOT/BOOTX64.EFI
syslinux --offset $((partition_sector * 512)) --install "$disk"

# The boot sector: syslinux's code, then one active partition (type 0e: FAT16, LBA) up to the disk's end.
dd if=/usr/lib/syslinux/mbr/mbr.bin of="$disk" conv=notrunc bs=440 count=1 status=none
little_endian() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 & 255)) $(($1 >> 8 & 255)) $(($1 >> 16 & 255)) $(($1 >> 24 & 255)); }
sectors=$((disk_mib * 2048 - partition_sector))
{
  printf '\x41\x1e\xa1\x09\x00\x00\x80\xfe\xff\xff\x0e\xfe\xff\xff'
  printf "$(little_endian $partition_sector)$(little_endian $sectors)"
} | dd of="$disk" conv=notrunc bs=1 seek=440 status=none
printf '\x55\xaa' | dd of="$disk" conv=notrunc bs=1 seek=510 status=none

sha256sum < "$work/payload.bin" | cut -d ' ' -f 1 > "$output.payload"
mv "$disk" "$output"
cat "$output.payload"
