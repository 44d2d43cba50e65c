#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The bad-block log of a member means the same to Linux and to volfs."""
import os

import kernel_lab
from lab import KiB, MiB, equal, holds, raises, volfs

DISK = 16 * MiB
BAD = 256 * KiB, 64 * KiB  # where in the data, how much


def data_offset(path):
    with open(path, "rb") as disk:
        disk.seek(4096 + 128)
        return 512 * int.from_bytes(disk.read(8), "little")


def read(path, offset, length):
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def definition(t, second="d1", more=""):
    return t.define(f"""volfs: 1
images:
  d0: {{path: d0.img, size: {DISK}}}
  d1: {{path: d1.img, size: {DISK}}}
arrays:
  a: {{level: raid1, devices: [d0, {second}], assume_clean: true}}
{more}""")


def rows(device, start):
    """A table over a disk of which nothing of BAD can be read or written; START is where that begins there."""
    end = start + BAD[1]
    return (f"0 {start // 512} linear {device} 0\n      {start // 512} {BAD[1] // 512} error\n"
            f"      {end // 512} {(DISK - end) // 512} linear {device} {end // 512}")


def logs_by_linux(t, more=""):
    """What Linux says of the members' logs, first sector and length, and how MORE goes on the array."""
    return t.linux.check(f"""
        set -- $(attach {t.path}/d0.img {t.path}/d1.img)
        mdadm --assemble --run --quiet /dev/md0 $*
        for disk in $*; do echo log: $(cat /sys/block/md0/md/dev-$(basename $disk)/bad_blocks); done
        {more}
        mdadm --stop --quiet /dev/md0""")


def test_what_linux_logs_volfs_does_not_read(t):
    paths = [t.file(f"d{i}.img", DISK) for i in range(2)]
    t.linux.check(f"""
        set -- $(attach {paths[0]} {paths[1]})
        mdadm --create /dev/md0 --run --quiet -l1 -n2 -e1.2 --assume-clean --name=a --homehost=any $*
        head -c $(blockdev --getsize64 /dev/md0) /dev/urandom > {t.path}/content
        dd if={t.path}/content of=/dev/md0 bs=1M conv=fsync status=none
        mdadm --stop --quiet /dev/md0""")
    data = (t.path / "content").read_bytes()
    first = (data_offset(paths[0]) + BAD[0]) // 512
    t.linux.check(f"""
        set -- $(attach {paths[0]} {paths[1]})
        mdadm --assemble --run --quiet /dev/md0 $*
        echo {first} {BAD[1] // 512} > /sys/block/md0/md/dev-$(basename $1)/bad_blocks
        dd if=/dev/md0 of=/dev/md0 bs=4k count=1 conv=notrunc,fsync status=none
        mdadm --stop --quiet /dev/md0""")
    holds(f"log: {first} {BAD[1] // 512}\nlog:\n" in logs_by_linux(t), "Linux keeps no log")
    t.mount(paths[0])
    name = next(entry for entry in t.mnt.iterdir() if entry.name != ".volfs")
    equal(read(name, 0, BAD[0]), data[:BAD[0]], "before what is bad")
    for at in (BAD[0], BAD[0] + BAD[1] - 4 * KiB):
        raises(5, read, name, at, 4 * KiB)
    equal(read(name, sum(BAD), MiB), data[sum(BAD):sum(BAD) + MiB], "behind it")
    t.umount()
    t.mount(*paths, options=["rw"])
    equal(name.read_bytes(), data, "of both members")
    with open(name, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data[:BAD[1] // 2], BAD[0])
        os.fsync(file.fileno())
    t.umount()
    left = f"log: {first + BAD[1] // 1024} {BAD[1] // 1024}\nlog:\n"
    said = logs_by_linux(t)
    holds(left in said, f"{left!r} is not in {said!r}")


def test_what_volfs_logs_linux_does_not_read(t):
    volfs("create", definition(t))
    start = data_offset(t.path / "d1.img") + BAD[0]
    t.mount(definition(t, "m1", f"maps:\n  m1:\n    table: |\n      {rows('d1', start)}\n"), options=["rw"])
    data = t.random.randbytes(2 * MiB)
    with open(t.mnt / "a", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, 0)
        os.fsync(file.fileno())
    states = [member["state"] for member in next(
        device for device in t.status()["devices"] if device["name"] == "a")["array"]["members"]]
    equal(states, ["in_sync", "in_sync"], "states of the members")
    t.umount()
    said = logs_by_linux(t, f"""
        echo faulty > /sys/block/md0/md/dev-$(basename $1)/state
        dd if=/dev/md0 of={t.path}/before bs=4k count={BAD[0] // 4096} status=none
        dd if=/dev/md0 of={t.path}/bad bs=4k skip={BAD[0] // 4096} count=1 status=none 2>&1 && echo it was read
        true""")
    wanted = f"log:\nlog: {start // 512} {BAD[1] // 512}\n"
    holds(wanted in said, f"{wanted!r} is not in {said!r}")
    holds("it was read" not in said, said)
    equal((t.path / "before").read_bytes(), data[:BAD[0]], "what Linux reads of the member")


def logs(t, *paths):
    """The logs as Linux has them in use, and as mdadm finds them on the disks: first sector and length."""
    said = t.linux.check(f"""
        set -- $(attach {' '.join(map(str, paths))})
        for disk in $*; do
          echo examined: $(mdadm --examine-badblocks $disk | sed -n 's/^ *\\([0-9]*\\) for \\([0-9]*\\) sectors/\\1 \\2/p')
        done
        mdadm --assemble --run --quiet /dev/md0 $*
        for disk in $*; do echo used: $(cat /sys/block/md0/md/dev-$(basename $disk)/bad_blocks); done
        mdadm --stop --quiet /dev/md0""")
    found = {"examined": [], "used": []}
    for line in said.splitlines():
        kind, colon, text = line.partition(":")
        if colon and kind in found:
            found[kind].append(text.strip())
    equal(found["examined"], found["used"], "what mdadm and the kernel say")
    return found["used"]


def check_reads(t, path, data):
    """By volfs, of a member alone: what is bad is an error, all else there."""
    t.mount(path)
    name = next(entry for entry in t.mnt.iterdir() if entry.name != ".volfs")
    equal(read(name, 0, BAD[0]), data[:BAD[0]], "before what is bad")
    for at in (BAD[0], sum(BAD) - 4 * KiB):
        raises(5, read, name, at, 4 * KiB)
    equal(read(name, sum(BAD), MiB), data[sum(BAD):sum(BAD) + MiB], "behind it")
    t.umount()


def test_what_a_recovery_by_volfs_cannot_read_linux_has_as_bad(t):
    volfs("create", definition(t, "missing"))
    start = data_offset(t.path / "d0.img") + BAD[0]
    t.mount(definition(t, "missing"))
    data = t.random.randbytes(2 * MiB)
    with open(t.mnt / "a", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, 0)
        os.fsync(file.fileno())
    t.umount()
    t.mount(t.define(f"""volfs: 1
images:
  d0: {{path: d0.img}}
  d1: {{path: d1.img}}
maps:
  m0:
    table: |
      {rows("d0", start)}
arrays:
  a: {{level: raid1, devices: [m0, missing]}}
"""))
    volfs("array", "add", t.mnt / "a", "d1", "--yes")
    volfs("array", "wait", t.mnt / "a", "--timeout", "300")
    states = {member["device"]: member["state"] for member in next(
        device for device in t.status()["devices"] if device["name"] == "a")["array"]["members"]}
    equal(states, {"m0": "in_sync", "d1": "in_sync"}, "states of the members")
    t.umount()
    equal(logs(t, t.path / "d0.img", t.path / "d1.img"), ["", f"{start // 512} {BAD[1] // 512}"], "the logs")
    check_reads(t, t.path / "d1.img", data)


def test_what_linux_cannot_read_or_write_volfs_has_as_bad(t):
    paths = [t.file(f"d{i}.img", DISK) for i in range(2)]
    t.linux.check(f"""
        set -- $(attach {paths[0]})
        mdadm --create /dev/md0 --run --quiet -l1 -n2 -e1.2 --assume-clean -b none --name=a --homehost=any $1 missing
        head -c $(blockdev --getsize64 /dev/md0) /dev/urandom > {t.path}/content
        dd if={t.path}/content of=/dev/md0 bs=1M conv=fsync status=none
        mdadm --stop --quiet /dev/md0""")
    data = (t.path / "content").read_bytes()
    start = data_offset(paths[0]) + BAD[0]
    # What cannot be read when another member is recovered; then what cannot be written.
    recovered, written = (f"""
        set -- $(attach {paths[0]} {paths[1]})
        dmsetup create bad <<EOF
{rows("$1", start)}
EOF
        mdadm --assemble --run --quiet /dev/md0 /dev/mapper/bad {other}
        {work}
        mdadm --stop --quiet /dev/md0""" for other, work in (
            ("", "mdadm --quiet /dev/md0 --add $2; mdadm --wait /dev/md0 || true"),
            ("$2", f"dd if={t.path}/content of=/dev/md0 bs=64k seek={BAD[0] // BAD[1]} skip={BAD[0] // BAD[1]} count=1 "
                   "oflag=direct conv=notrunc,fsync status=none; echo idle > /sys/block/md0/md/sync_action")))
    t.linux.check(recovered)
    bad = f"{start // 512} {BAD[1] // 512}"
    equal(logs(t, *paths)[1], bad, "the log of the one that was recovered")
    check_reads(t, paths[1], data)
    # Good again, by volfs; then bad where it is written.
    t.mount(*paths, options=["rw"])
    name = next(entry for entry in t.mnt.iterdir() if entry.name != ".volfs")
    with open(name, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data[BAD[0]:sum(BAD)], BAD[0])
        os.fsync(file.fileno())
    t.umount()
    equal(logs(t, *paths), ["", ""], "after it was written")
    t.linux.check(written)
    equal(logs(t, *paths), [bad, ""], "the log of the one that could not be written")
    check_reads(t, paths[0], data)
    t.mount(*paths)
    equal(name.read_bytes(), data, "of both members")
    t.umount()


if __name__ == "__main__":
    kernel_lab.main(globals())
