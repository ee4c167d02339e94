#!/bin/busybox sh
# PID 1 of the emulated machine. It loads KVM, lays a tmpfs over the host's read-only root and runs /io/command in it.
# Everything that goes wrong before the command starts is written to /io/failure, which the host reports.
b=/bin/busybox
p9=trans=virtio,version=9p2000.L,msize=512000

fail() { echo "$1" > /io/failure; $b poweroff -f; }
port() { $b basename "$($b dirname "$($b grep -lx "$1" /sys/class/virtio-ports/*/name)")"; }

$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module" || broken=$module; done < /modules/order

$b mkdir -p /io /host /cover /root
$b mount -t 9p -o $p9 io /io || $b poweroff -f
[ -z "$broken" ] || fail "the kernel module $broken does not load"
[ -c /dev/kvm ] || fail "kvm_amd made no /dev/kvm"
$b mount -t 9p -o ro,$p9,cache=loose host /host || fail "the host's / cannot be mounted"
$b mount -t tmpfs cover /cover
$b mkdir /cover/upper /cover/work
$b mount -t overlay -o lowerdir=/host,upperdir=/cover/upper,workdir=/cover/work overlay /root ||
    fail "the overlay over the host's / cannot be mounted"

out=/root/dev/$(port stdout)
err=/root/dev/$(port stderr)
for dir in proc sys dev; do $b mount --move /$dir /root/$dir; done
$b mkdir -p /root/dev/shm /root/dev/pts /root/run/kvm-under-tcg
$b mount -t tmpfs shm /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
$b ln -s /proc/self/fd /root/dev/fd
$b mount --bind /io /root/run/kvm-under-tcg
while read -r tag dir; do
    $b mkdir -p "/root$dir" && $b mount -t 9p -o $p9,cache=mmap "$tag" "/root$dir" || fail "$dir cannot be mounted"
done < /io/writable
$b ip link set lo up

$b chroot /root /bin/sh /run/kvm-under-tcg/command < /root/dev/null > "$out" 2> "$err"
echo $? > /io/status
$b sync
$b poweroff -f
