#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What Linux writes to md arrays, volfs reads: every level, layout and superblock version, whole and
with every loss that it survives.

All arrays lie side by side on a few disks, one partition of each disk for each array, so that leaving
out a disk takes a member from all of them: what is left is scanned and mounted, and every array that
should survive has the bytes that Linux wrote. No byte of the disks changes. By default every second array
has a bitmap; with VOLFS_MD_MATRIX=all each comes with one and without. (Linux creates no raid0 of metadata
0.90 any more: one of ours that it writes to is in md_write_test.py.)
"""

import itertools
import os
import struct
import uuid
import zlib

import kernel_lab
from lab import KiB, MiB, equal, holds, run, sha256, volfs

SECTOR = 512
PART = 4 * MiB
DISKS = 5
VERSIONS = ("0.90", "1.0", "1.1", "1.2")
LAYOUTS = {
    "raid1": [None],
    "raid4": [None],
    "raid5": ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first",
              "parity-last"],
    "raid6": ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first",
              "parity-last", "ddf-zero-restart", "ddf-N-restart", "ddf-N-continue", "left-asymmetric-6",
              "right-asymmetric-6", "left-symmetric-6", "right-symmetric-6", "parity-first-6"],
    "raid10": ["n2", "n3", "f2", "f3", "o2", "o3"],
}
SLOTS = {"raid1": (3, 2), "raid4": (4,), "raid5": (4, 3), "raid6": (5, 4), "raid10": (4, 5, 3)}
CHUNKS = (16, 64, 4)


class Case:
    def __init__(self, number, bitmap, level, layout, slots, version, chunk, uneven=False):
        self.bitmap = bitmap
        self.number, self.level, self.layout, self.slots = number, level, layout, slots
        self.version, self.chunk, self.uneven = version, chunk, uneven
        self.name = f"md{number}"

    def __str__(self):
        return f"{self.name}: {self.level} {self.layout or ''} of {self.slots}, chunk {self.chunk}K, {self.version}"

    def size(self, disk):
        """Of its partition there."""
        return PART + (disk * 640 * KiB if self.uneven else 0)

    def options(self):
        words = f"-l{self.level} -n{self.slots} -e{self.version}"
        if self.level != "raid1":
            words += f" -c{self.chunk}"
        if self.layout:
            words += f" -p{self.layout}"
        if self.level not in ("raid0", "linear"):
            words += f" -z1024 --assume-clean -b{'internal' if self.bitmap else 'none'}"
        return words + (f" --name={self.number} --homehost=nas" if self.version != "0.90" else "")

    def survives(self, lost):
        lost = [disk for disk in lost if disk < self.slots]
        if self.level == "raid10":
            kind, copies = self.layout[0], int(self.layout[1])
            step = copies if kind == "n" else 1
            return not any(all((chunk * step + copy) % self.slots in lost for copy in range(copies))
                           for chunk in range(self.slots))
        return len(lost) <= {"raid1": self.slots - 1, "raid6": 2, "raid4": 1, "raid5": 1}.get(self.level, 0)


def cases(linear, turned):
    """TURNED: who else had a bitmap has none, and the other way round."""
    found = []

    def add(*words, **more):
        number = len(found) + 1
        found.append(Case(number, number % 2 != turned, *words, **more))

    turn = itertools.count()
    for level, layouts in LAYOUTS.items():
        for layout, version in itertools.product(layouts, VERSIONS):
            slots = SLOTS[level][next(turn) % len(SLOTS[level])]
            if layout and layout[1:] == "3" and slots == 3 and layout[0] != "n":
                slots = 4
            add(level, layout, slots, version, CHUNKS[next(turn) % len(CHUNKS)])
    for version in VERSIONS[1:]:  # mdadm 4.2 makes no raid0 with 0.90
        for layout in ("original", "alternate"):
            add("raid0", layout, 3, version, 16, uneven=True)
        add("raid0", "dangerous", 2, version, 64)
    for version in VERSIONS if linear else ():
        add("linear", None, 3, version, 64, uneven=True)
    return found


def partition(path, sizes):
    """Makes a disk with a GPT of partitions of these sizes, one after the other."""
    first = [MiB]
    for size in sizes:
        first.append(first[-1] + size)
    total = first[-1] + MiB
    entries = b"".join(
        uuid.UUID("a19d880f-05fc-4d3b-a006-743f0f84911e").bytes_le + uuid.uuid4().bytes_le
        + struct.pack("<QQQ72x", start // SECTOR, (start + size) // SECTOR - 1, 0)
        for start, size in zip(first, sizes)).ljust(128 * 128, b"\0")
    last = total // SECTOR - 1
    disk_id = uuid.uuid4().bytes_le

    def header(here, other, table):
        def pack(checksum):
            return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, checksum, 0, here, other, 34,
                               last - 33, disk_id, table, 128, 128, zlib.crc32(entries))
        return pack(zlib.crc32(pack(0)))

    with open(path, "wb") as disk:
        disk.truncate(total)
        disk.seek(446)
        disk.write(struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, last) + bytes(48) + b"\x55\xaa")
        disk.write(header(1, last, 2))
        disk.seek(2 * SECTOR)
        disk.write(entries)
        disk.seek((last - 32) * SECTOR)
        disk.write(entries + header(last, 1, last - 32))


def make_disks(t, all_cases):
    paths = []
    for disk in range(DISKS):
        paths.append(t.path / f"disk{disk}.img")
        partition(paths[-1], [case.size(disk) for case in all_cases])
    return paths


def write_by_linux(t, all_cases, paths, content):
    script = "n=0; for image in " + " ".join(map(str, paths)) + """; do
        eval d$n=$(losetup --find --show --partscan $image); n=$((n + 1)); done
        make() {
          number=$1; shift
          mdadm --create /dev/md$number --run --quiet "$@"
          dd if=%s of=/dev/md$number iflag=skip_bytes bs=1M skip=$((number * 4096)) conv=fsync 2>/dev/null || true
          blockdev --getsize64 /dev/md$number
          mdadm --stop --quiet /dev/md$number
        }
        """ % content
    for case in all_cases:
        names = " ".join(f"${{d{i}}}p{case.number}" for i in range(case.slots))
        script += f"make {case.number} {case.options()} {names}\n"
    sizes = t.linux.check(script, timeout=500).split()
    return {case.number: int(size) for case, size in zip(all_cases, sizes, strict=True)}


def test_what_linux_writes_volfs_reads(t):
    read_all(t, False)


if os.environ.get("VOLFS_MD_MATRIX") == "all":  # it takes its time
    def test_what_linux_writes_volfs_reads_with_the_other_bitmaps(t):
        read_all(t, True)


def read_all(t, turned):
    linear = t.linux.run("modprobe linear")[0] == 0
    all_cases = cases(linear, turned)
    paths = make_disks(t, all_cases)
    content = t.path / "content"
    data = t.random.randbytes(24 * MiB)
    content.write_bytes(data)
    sizes = write_by_linux(t, all_cases, paths, content)
    before = [sha256(path) for path in paths]
    losses = [lost for count in range(3) for lost in itertools.combinations(range(DISKS), count)]
    seen = 0
    for lost in losses:
        left = [path for disk, path in enumerate(paths) if disk not in lost]
        t.random.shuffle(left)
        t.mount(*left)
        wanted = [case for case in all_cases if case.survives(lost)]
        found = {entry.name for entry in t.mnt.iterdir()} - {".volfs"}
        equal(found, {case.name for case in wanted}, f"arrays without {lost}")
        for case in wanted:
            start = case.number * 4096
            equal((t.mnt / case.name).read_bytes(), data[start:start + sizes[case.number]],
                  f"{case}, without {lost}")
            seen += 1
        t.umount()
    equal([sha256(path) for path in paths], before, "the disks' digests")
    print(f"{len(all_cases)} arrays of Linux {t.linux.release()}, read {seen} times")


if __name__ == "__main__":
    kernel_lab.main(globals())
