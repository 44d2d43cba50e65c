#!/boot/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First process of the reference kernel (see guest.py): makes the host's /usr usable, then runs the
# scripts that the host names, one a line, over a serial line, until that line is closed.
# The host wrote /settings: `fs` (hostfs or 9p), `line` (the serial device), `share` (the host's
# folder of images, which has the same path here), `control`, `modules` and `boot_modules`.
. /settings

# Mounts folder $1 of the host at $2; for 9p its tag is $3 and its caching $4.
mount_host() {
  case $fs in
    hostfs) mount -t hostfs -o "$1" none "$2" ;;
    9p) mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,cache=$4" "$3" "$2" ;;
  esac
}

# The first shell is busybox, linked statically; with /usr there, bash goes on.
if [ "$1" != agent ]; then
  export PATH=/boot
  for module in $boot_modules; do insmod "/boot/$module" || echo "cannot load $module"; done
  mount_host /usr /usr usr loose
  export PATH=/usr/sbin:/usr/bin
  exec bash /init agent
fi

set_up() {
  mount -t proc none /proc
  mount -t sysfs none /sys
  mountpoint -q /dev || mount -t devtmpfs none /dev
  for folder in /run /tmp /var; do mount -t tmpfs none $folder; done
  mkdir -p /run/lock/lvm /run/mdadm /run/lvm /var/tmp /var/lib "$share" "$modules"
  ln -s /run/lock /var/lock
  ln -sn /proc/self/fd /dev/fd
  mount_host "$modules" "$modules" modules loose
  mount_host "$control" /control control none
  # There is no udev here: the tools make device nodes themselves.
  export DM_DISABLE_UDEV=1 MDADM_NO_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1 LC_ALL=C.UTF-8 HOME=/tmp
  for module in loop dm-mod md-mod ext4; do modprobe $module || echo "cannot load $module"; done
  known_mounts=" $share "
  while find_mount_left; [ -n "$left" ]; do known_mounts+="$left "; done
}

# Sets $left to the latest mount that set_up did not make, or to nothing.
find_mount_left() {
  local id parent device root path rest
  left=
  while read -r id parent device root path rest; do
    [[ $known_mounts == *" $path "* ]] || left=$path
  done </proc/self/mountinfo
}

exists() { [ -e "$1" ]; }

# Takes down all that a script left: mounts, volume groups, maps, arrays, loop devices. Starting a
# program costs much here, so what is not there is found out by the shell alone.
clean_up() {
  while find_mount_left; [ -n "$left" ]; do umount "$left" || umount -l "$left" || break; done
  if exists /sys/block/dm-*; then
    vgchange -q -q -an
    dmsetup remove_all
    dmsetup remove_all
  fi
  if exists /sys/block/md*; then mdadm --quiet --stop --scan; fi
  if exists /sys/block/loop*/loop; then
    losetup -D
    for _ in 1 2 3 4 5 6 7 8 9 10; do exists /sys/block/loop*/loop || break; sleep 0.1; done
  fi
}

# Runs script $1 for at most $2 seconds. The share is mounted anew for each script, so that no page
# or size cached here hides what the host did in between, and all is written back afterwards.
run_script() {
  local status
  mount_host "$share" "$share" share none || return 98
  (cd "$share" && exec timeout -k 5 "$2" bash "/control/$1.sh" </dev/null 3>&- >"/control/$1.out" 2>&1)
  status=$?
  { clean_up && umount "$share"; } >>"/control/$1.out" 2>&1 || status=97
  return $status
}

set_up
exec 3<>"$line"
stty raw -echo <&3
uname -r >/control/release
sync
echo ready >&3
while read -r name limit <&3; do
  run_script "$name" "$limit"
  status=$?
  sync
  echo "done $name $status" >&3
done
echo o >/proc/sysrq-trigger
sleep 10
