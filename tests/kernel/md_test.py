#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""md arrays go both ways: what volfs writes Linux reads, checks and finds in order, and the reverse.

Whole, degraded and rebuilt, over a spread of levels, layouts and superblock versions. The whole
matrix runs with VOLFS_MD_MATRIX=all.
"""

import os
import pathlib
import random
import re
import subprocess
import tempfile
import unittest

import guest

MIB = 1 << 20
TOOL = os.environ.get("VOLFS_MD_TOOL", "md_tool")
DISK = 8 * MIB

# level, layout, disks, chunk (KiB), superblock, bitmap, how many it may lose
SPREAD = [
    ("raid1", "-", 2, 0, "1.2", True, 1),
    ("raid1", "-", 3, 0, "0.90", False, 2),
    ("raid4", "-", 3, 64, "1.0", False, 1),
    ("raid5", "left-symmetric", 3, 64, "1.2", True, 1),
    ("raid5", "right-asymmetric", 4, 4, "0.90", True, 1),
    ("raid5", "parity-first", 3, 32, "1.1", False, 1),
    ("raid6", "left-symmetric", 4, 64, "1.2", False, 2),
    ("raid6", "ddf-N-restart", 5, 16, "1.2", True, 2),
    ("raid6", "left-asymmetric-6", 5, 64, "1.0", True, 2),
    ("raid10", "n2", 4, 64, "1.2", True, 1),
    ("raid10", "f2", 3, 64, "1.2", False, 1),
    ("raid10", "o2", 4, 16, "1.0", False, 1),
    ("raid0", "-", 3, 64, "1.2", False, 0),
]
LAYOUTS = {
    "raid5": ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first",
              "parity-last"],
    "raid6": ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first",
              "parity-last", "ddf-zero-restart", "ddf-N-restart", "ddf-N-continue", "left-asymmetric-6",
              "right-asymmetric-6", "left-symmetric-6", "right-symmetric-6", "parity-first-6"],
    "raid10": ["n2", "n3", "f2", "f3", "o2", "o3"],
    "raid1": ["-"],
    "raid4": ["-"],
}


def cases():
    if os.environ.get("VOLFS_MD_MATRIX") != "all":
        return SPREAD
    matrix = [case for case in SPREAD if case[0] == "raid0"]
    for level, layouts in LAYOUTS.items():
        for layout in layouts:
            for version in ("0.90", "1.0", "1.1", "1.2"):
                for bitmap in (False, True):
                    lose = {"raid6": 2, "raid1": 1}.get(level, 1)
                    matrix.append((level, layout, 5 if level == "raid6" else 4, 64, version, bitmap, lose))
    return matrix


class Interchange(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="volfs-images-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.share = pathlib.Path(cls.folder.name)
        cls.guest = guest.Guest(cls.share)
        cls.guest.start()
        cls.addClassCleanup(cls.guest.stop)

    def images(self, count):
        names = [f"disk{i}.img" for i in range(count)]
        for name in names:
            (self.share / name).unlink(missing_ok=True)
            with open(self.share / name, "wb") as image:
                image.truncate(DISK)
        return names

    def tool(self, *arguments):
        run = subprocess.run([TOOL, *arguments], cwd=self.share, capture_output=True, text=True, timeout=300)
        self.assertEqual(run.returncode, 0, f"{arguments}: {run.stderr}")
        return run.stdout

    def content(self, size, seed):
        data = random.Random(seed).randbytes(size)
        (self.share / "content").write_bytes(data)
        return data

    def read_by_linux(self, names, lost=0):
        """Linux assembles, reads to the file `linux`, checks; returns what it says."""
        output = self.guest.check(f"""
            disks=$(attach {' '.join(names)})
            for disk in $disks; do mdadm --examine $disk | grep -i checksum; done
            mdadm --assemble --run --quiet /dev/md0 $disks
            cat /proc/mdstat
            cat /dev/md0 > linux
            if [ -e /sys/block/md0/md/sync_action ] && [ {lost} = 0 ]; then
              mdadm --wait /dev/md0 || true
              echo check > /sys/block/md0/md/sync_action; mdadm --wait /dev/md0 || true
              echo mismatch $(cat /sys/block/md0/md/mismatch_cnt)
            fi
            mdadm --stop --quiet /dev/md0""", timeout=120)
        self.assertNotRegex(output, "(?i)checksum.*(expected|bad)")
        if lost == 0 and "mismatch" in output:
            self.assertIn("mismatch 0\n", output)
        return output

    def test_what_volfs_writes_linux_reads(self):
        for level, layout, disks, chunk, version, bitmap, lose in cases():
            with self.subTest(level=level, layout=layout, disks=disks, version=version, bitmap=bitmap):
                names = self.images(disks)
                self.tool("create", level, layout, f"{chunk}K", version, "bitmap" if bitmap else "nobitmap",
                          "resync", str(disks), *names)
                size = int(self.tool("ro", *names, "--", "size"))
                data = self.content(size, 1)
                self.tool("rw", *names, "--", "put=content", "wait")
                self.read_by_linux(names)
                self.assertEqual((self.share / "linux").read_bytes(), data, "whole")
                if lose == 0:
                    continue
                lost = names[:lose] if level != "raid10" else names[1:2]
                data = self.content(size, 2)
                self.tool("rw", *names, "--", *[f"fail={n}" for n in lost], *[f"remove={n}" for n in lost],
                          "put=content")
                rest = [n for n in names if n not in lost]
                self.read_by_linux(rest, len(lost))
                self.assertEqual((self.share / "linux").read_bytes(), data, "degraded")
                for name in lost:
                    os.truncate(self.share / name, 0)
                    os.truncate(self.share / name, DISK)
                self.tool("rw", *rest, "--", *[f"add={n}" for n in lost], "wait")
                self.read_by_linux(names)
                self.assertEqual((self.share / "linux").read_bytes(), data, "rebuilt")

    def test_what_linux_writes_volfs_reads(self):
        for level, layout, disks, chunk, version, bitmap, lose in cases():
            with self.subTest(level=level, layout=layout, disks=disks, version=version, bitmap=bitmap):
                names = self.images(disks)
                self.content(disks * DISK, 3)
                options = f"--level={level} --raid-devices={disks} --metadata={version}"
                options += f" --chunk={chunk}" if chunk else ""
                options += f" --layout={layout}" if layout != "-" else ""
                if level != "raid0":
                    options += f" --bitmap={'internal' if bitmap else 'none'}"
                output = self.guest.check(f"""
                    mdadm --create /dev/md0 --run --quiet {options} $(attach {' '.join(names)})
                    mdadm --wait /dev/md0 || true
                    head -c $(blockdev --getsize64 /dev/md0) content > /dev/md0
                    sync
                    cat /proc/mdstat
                    mdadm --stop --quiet /dev/md0""", timeout=120)
                data = (self.share / "content").read_bytes()
                said = self.tool("ro", *names, "--", "get=volfs", "mdstat")
                read = (self.share / "volfs").read_bytes()
                self.assertEqual(read, data[:len(read)])
                # All that does not name disks or depend on when it was asked.
                wanted = re.search(r"^ +\d+ blocks.*$", output, re.M).group()
                self.assertIn(wanted + "\n", said)
                if lose:
                    lost = names[:lose] if level != "raid10" else names[1:2]
                    rest = [n for n in names if n not in lost]
                    self.tool("ro", *rest, "--", "get=volfs")
                    self.assertEqual((self.share / "volfs").read_bytes(), read, "degraded")
                    self.assertEqual(self.tool("rw", *names, "--", "check"), "mismatch_cnt 0\n")


if __name__ == "__main__":
    guest.skip_unless_possible()
    unittest.main(verbosity=2)
