#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes kernel.txt: what a real kernel says to the tables of cases.txt. Run as root on a Linux
# machine with dmsetup and the target modules, with four block devices of 131072 sectors to play
# with (nothing is written to them):
#   ./make-golden.sh DEVICE0 DEVICE1 DEVICE2 DEVICE3 < cases.txt > kernel.txt
# Each case gives "case TEXT", then "refused" or the lines of `dmsetup table` and `dmsetup
# status`, with '|' at both ends and the devices by name.
set -u
dmesg -n 1  # refusals are told on the console, too
names=(disk0 disk1 disk2 disk3); to_device=(); to_name=(); i=0
for device in "$@"; do
  numbers=$(lsblk -dno MAJ:MIN "$device" 2>/dev/null || cat "/sys/class/block/${device##*/}/dev")
  to_device+=(-e "s#\b${names[i]}\b#$device#g"); to_name+=(-e "s#\b${numbers// /}\b#${names[i]}#g")
  i=$((i + 1))
done
echo "# $(uname -sr), $(dmsetup version | sed -n 's/^Library version: *//p')"
while IFS= read -r text; do
  case $text in '# Device-mapper tables'*|'# disk0 to disk3'*) continue;; esac
  printf 'case %s\n' "$text"
  table=$(printf '%s\n' "$text" | sed "${to_device[@]}" | tr ';' '\n')
  if printf '%s\n' "$table" | dmsetup create golden >/dev/null 2>&1; then
    dmsetup table golden | sed "${to_name[@]}" -e 's/^/table |/; s/$/|/'
    dmsetup status golden | sed "${to_name[@]}" -e 's/^/status |/; s/$/|/'
  else
    echo refused
  fi
  dmsetup remove golden >/dev/null 2>&1 || true
done
