#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What volfs writes to md arrays, Linux reads, checks and finds in order.

volfs makes the members, writes to the array whole, with members lost, and again after they were rebuilt;
each time Linux assembles what there is, reads the same bytes, finds no mismatch in a check, and mdadm no
wrong checksum in a superblock. A spread of levels, layouts and superblock versions by default; all of
them, with a bitmap and without, and every loss of one member (raid6: of two), with VOLFS_MD_MATRIX=all
(or some: raid6,raid5:parity-first).
"""

import itertools
import os
import pathlib
import random
import subprocess
import tempfile
import unittest

import guest

MIB = 1 << 20
TOOL = os.environ.get("VOLFS_MD_TOOL", "md_tool")
DISK = 4 * MIB

# level, layout, disks, chunk (KiB), superblock, bitmap, which disks are lost
SPREAD = [
    ("raid1", "-", 2, 0, "1.2", True, (0,)),
    ("raid1", "-", 3, 0, "0.90", False, (0, 2)),
    ("raid4", "-", 3, 64, "1.0", False, (2,)),
    ("raid5", "left-symmetric", 3, 64, "1.2", True, (1,)),
    ("raid5", "right-asymmetric", 4, 4, "0.90", True, (3,)),
    ("raid5", "parity-first", 3, 32, "1.1", False, (0,)),
    ("raid6", "left-symmetric", 4, 64, "1.2", False, (0, 1)),
    ("raid6", "ddf-N-restart", 5, 16, "1.2", True, (2, 4)),
    ("raid6", "left-asymmetric-6", 5, 64, "1.0", True, (1, 3)),
    ("raid10", "n2", 4, 64, "1.2", True, (1,)),
    ("raid10", "f2", 3, 64, "1.2", False, (2,)),
    ("raid10", "o2", 4, 16, "1.0", False, (0,)),
    # mdadm makes no such ones, the kernel knows them.
    ("raid10", "n2f2", 4, 64, "1.2", True, (3,)),
    ("raid10", "n2o2", 4, 16, "1.1", False, (1,)),
    ("raid0", "-", 3, 64, "1.2", False, ()),
    ("linear", "-", 3, 64, "1.2", False, ()),
]
LAYOUTS = {
    "raid1": ["-"],
    "raid4": ["-"],
    "raid5": ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first",
              "parity-last"],
    "raid6": ["left-asymmetric", "right-asymmetric", "left-symmetric", "right-symmetric", "parity-first",
              "parity-last", "ddf-zero-restart", "ddf-N-restart", "ddf-N-continue", "left-asymmetric-6",
              "right-asymmetric-6", "left-symmetric-6", "right-symmetric-6", "parity-first-6"],
    "raid10": ["n2", "n3", "f2", "f3", "o2", "o3", "n2f2", "n2o2"],
}


REPLACED = [("raid1", "-", 2), ("raid5", "left-symmetric", 3), ("raid6", "left-symmetric", 4), ("raid10", "n2", 4)]
# Waits for a replacement to end, then checks.
IN_ORDER = """
    mdadm --wait --quiet /dev/md0 || true
    echo replaced: $(grep -c '(R)' /proc/mdstat)
    echo check > /sys/block/md0/md/sync_action; mdadm --wait --quiet /dev/md0 || true
    echo mismatches: $(cat /sys/block/md0/md/mismatch_cnt)
    echo degraded: $(cat /sys/block/md0/md/degraded)
    mdadm --stop --quiet /dev/md0"""


def cases():
    wanted = os.environ.get("VOLFS_MD_MATRIX", "").split(",")
    if wanted == [""]:
        return SPREAD
    matrix = [(*case[:4], version, *case[5:]) for case in SPREAD if case[0] in ("raid0", "linear")
              for version in ("0.90", "1.0", "1.1", "1.2")]
    for level, layouts in LAYOUTS.items():
        disks = 5 if level == "raid6" else 4
        losses = list(itertools.combinations(range(disks), 2 if level == "raid6" else 1))
        turn = itertools.cycle(losses)
        chunks = (0, 0) if level == "raid1" else (64, 16)
        for layout in layouts:
            for version in ("0.90", "1.0", "1.1", "1.2"):
                for bitmap in (False, True):
                    # Every loss comes by in turn, those of one layout with different superblocks.
                    matrix.append((level, layout, disks, chunks[0], version, bitmap, next(turn)))
            matrix += [(level, layout, disks, chunks[1], "1.2", True, loss) for loss in losses]
    return [case for case in matrix
            if {"all", case[0], f"{case[0]}:{case[1]}"}.intersection(wanted)]


class Interchange(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="volfs-images-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.share = pathlib.Path(cls.folder.name)
        cls.guest = guest.Guest(cls.share)
        cls.guest.start()
        cls.addClassCleanup(cls.guest.stop)

    def images(self, count, size=DISK):
        names = [f"disk{i}.img" for i in range(count)]
        for name in names:
            self.empty(name, size)
        return names

    def empty(self, name, size=DISK):
        """A disk that holds what was there before: not zeros."""
        noise = random.Random(name).randbytes(64 << 10)
        (self.share / name).write_bytes(noise * (size // len(noise)))

    def tool(self, *arguments):
        run = subprocess.run([TOOL, *arguments], cwd=self.share, capture_output=True, text=True, timeout=600)
        self.assertEqual(run.returncode, 0, f"{arguments}: {run.stderr}")
        return run.stdout

    def content(self, size, seed):
        data = random.Random(seed).randbytes(size)
        (self.share / "content").write_bytes(data)
        return data

    def read_by_linux(self, names, data, what, whole):
        """Linux assembles, reads DATA and checks."""
        level_has_check = "[ -e /sys/block/md0/md/sync_action ]"
        output = self.guest.check(f"""
            disks=$(attach {' '.join(names)})
            for disk in $disks; do mdadm --examine $disk | grep -i checksum; done
            mdadm --assemble --run --quiet /dev/md0 $disks
            cat /proc/mdstat
            cat /dev/md0 > linux
            if {level_has_check} && {'true' if whole else 'false'}; then
              echo check > /sys/block/md0/md/sync_action; mdadm --wait --quiet /dev/md0 || true
              echo mismatches: $(cat /sys/block/md0/md/mismatch_cnt)
              echo degraded: $(cat /sys/block/md0/md/degraded)
            fi
            mdadm --stop --quiet /dev/md0""", timeout=600)
        sums = [line for line in output.splitlines() if "checksum" in line.lower()]
        self.assertEqual(len(sums), len(names), output)
        for line in sums:
            self.assertRegex(line, "- correct$", output)
        self.assertTrue((self.share / "linux").read_bytes() == data, f"{what}: Linux reads other bytes")
        if whole and "mismatches:" in output:
            self.assertIn("mismatches: 0\n", output, what)
            self.assertIn("degraded: 0\n", output, what)

    def test_what_volfs_writes_linux_reads(self):
        for level, layout, disks, chunk, version, bitmap, lost in cases():
            with self.subTest(level=level, layout=layout, disks=disks, chunk=chunk, version=version,
                              bitmap=bitmap, lost=lost):
                self.whole_degraded_rebuilt(level, layout, disks, chunk, version, bitmap, lost)

    def whole_degraded_rebuilt(self, level, layout, disks, chunk, version, bitmap, lost):
        names = self.images(disks)
        self.tool("create", level, layout, f"{chunk}K", version, "bitmap" if bitmap else "nobitmap",
                  "resync", str(disks), *names)
        size = int(self.tool("ro", *names, "--", "size"))
        data = self.content(size, 1)
        self.tool("rw", *names, "--", "put=content", "wait")
        self.read_by_linux(names, data, "whole", True)
        if not lost:
            return self.written_by_linux(names, size)
        gone = [names[i] for i in lost]
        data = self.content(size, 2)
        self.tool("rw", *names, "--", *[f"fail={n}" for n in gone], *[f"remove={n}" for n in gone],
                  "put=content")
        rest = [n for n in names if n not in gone]
        self.read_by_linux(rest, data, "degraded", False)
        for name in gone:
            self.empty(name)
        self.tool("rw", *rest, "--", *[f"add={n}" for n in gone], "wait")
        self.read_by_linux(names, data, "rebuilt", True)


    def written_by_linux(self, names, size):
        data = self.content(size, 4)
        self.guest.check(f"""
            mdadm --assemble --run --quiet /dev/md0 $(attach {' '.join(names)})
            dd if=content of=/dev/md0 bs=1M conv=fsync status=none
            mdadm --stop --quiet /dev/md0""")
        self.tool("ro", *names, "--", "get=ours")
        self.assertTrue((self.share / "ours").read_bytes() == data, "written by Linux")

    def test_what_volfs_left_half_replaced_linux_ends(self):
        for level, layout, disks in REPLACED:
            with self.subTest(level=level):
                names = self.images(disks + 1, 24 * MIB)
                old, new = names[1], names[disks]
                self.tool("create", level, layout, "64K" if level != "raid1" else "0", "1.2", "nobitmap", "clean",
                          str(disks), *names[:disks])
                data = self.content(int(self.tool("ro", *names[:disks], "--", "size")), 3)
                said = self.tool("rw", "slow", *names[:disks], "--", "put=content", f"add={new}", f"replace={old}",
                                 "half", "mdstat")
                self.assertIn(f"{new}[{disks}](R)", said)
                output = self.guest.check(f"""
                    set -- $(attach {' '.join(names)})
                    echo 200 > /proc/sys/dev/raid/speed_limit_max; echo 100 > /proc/sys/dev/raid/speed_limit_min
                    mdadm --assemble --run --quiet /dev/md0 $*
                    cat /proc/mdstat; cat /sys/block/md0/md/dev-*/recovery_start
                    cat /dev/md0 > linux
                    echo 200000 > /proc/sys/dev/raid/speed_limit_max; echo 1000 > /proc/sys/dev/raid/speed_limit_min
                    {IN_ORDER}""", timeout=600)
                self.assertIn("(R)", output)
                self.assertRegex(output, r"\n[1-9]\d*\n", "Linux begins anew")
                self.assertIn("replaced: 0\nmismatches: 0\ndegraded: 0\n", output)
                self.assertTrue((self.share / "linux").read_bytes() == data, "Linux reads other bytes")
                left = [name for name in names if name != old]
                self.tool("ro", *left, "--", "get=ours")
                self.assertTrue((self.share / "ours").read_bytes() == data, "after the replacement")

    def test_a_replacement_that_a_crash_cut_off_is_ended_by_both(self):
        """With a bitmap it goes on where it stood, and what was being written is the same everywhere then.
        Linux 7.2 itself leaves wrong parity on the replacement of a raid5 that was not stopped cleanly, its own
        too: that is not asked of it."""
        for level, layout, disks in REPLACED:
            with self.subTest(level=level):
                names = self.images(disks + 1, 24 * MIB)
                old, new = names[0], names[disks]
                self.tool("create", level, layout, "64K" if level != "raid1" else "0", "1.2", "bitmap", "clean",
                          str(disks), *names[:disks])
                before = self.content(int(self.tool("ro", *names[:disks], "--", "size")), 8)
                self.tool("rw", "slow", *names[:disks], "--", "put=content", f"add={new}", f"replace={old}", "half")
                patch = random.Random(9).randbytes(4096)
                (self.share / "patch").write_bytes(patch)
                self.tool("rw", "slow", *names, "--", "patch=patch", "die")
                begun = self.write_first_block(new, before[:4096])  # as if the power had gone before it got there
                crashed = {name: (self.share / name).read_bytes() for name in names}
                left, after = names[1:], patch + before[4096:]
                self.tool("rw", *names, "--", "wait", "get=ours")
                self.assertTrue((self.share / "ours").read_bytes() == after, "volfs ends it")
                self.read_by_linux(left, after, "volfs ended it", True)
                for name, content in crashed.items():
                    (self.share / name).write_bytes(content)
                # It is stopped again amid it, and Linux goes on.
                self.tool("rw", "slow", *names, "--", "get=ours")
                self.assertTrue((self.share / "ours").read_bytes() == after, "volfs goes on")
                self.assertGreaterEqual(self.recovered(new), begun, "it begins anew")
                if level == "raid5":
                    continue
                output = self.guest.check(f"""
                    mdadm --assemble --run --quiet /dev/md0 $(attach {' '.join(names)})
                    {IN_ORDER}""", timeout=600)
                self.assertIn("replaced: 0\nmismatches: 0\ndegraded: 0\n", output)
                self.tool("ro", *left, "--", "get=ours")
                ours = (self.share / "ours").read_bytes()
                self.assertTrue(ours[4096:] == before[4096:] and ours[:4096] in (patch, before[:4096]),
                                "Linux ended it")

    def recovered(self, name):
        """Its recovery offset, in sectors."""
        return int.from_bytes((self.share / name).read_bytes()[4096 + 152:4096 + 160], "little")

    def write_first_block(self, name, content):
        """Of the data; returns how far the disk is recovered."""
        with open(self.share / name, "r+b") as file:
            file.seek(4096 + 128)
            file.seek(512 * int.from_bytes(file.read(8), "little"))
            file.write(content)
        return self.recovered(name)

    def test_what_linux_left_half_replaced_volfs_ends(self):
        for level, layout, disks in REPLACED:
            with self.subTest(level=level):
                names = self.images(disks + 1, 24 * MIB)
                chunk = "-c64" if level != "raid1" else ""
                layout = "" if layout == "-" else f"-p {layout}"
                output = self.guest.check(f"""
                    set -- $(attach {' '.join(names)})
                    new=$(eval echo \\${disks + 1}); old=$2
                    mdadm --create /dev/md0 --run --quiet --assume-clean -e 1.2 -l {level} {layout} {chunk} \\
                      -n {disks} $(echo $* | cut -d' ' -f-{disks})
                    head -c $(blockdev --getsize64 /dev/md0) /dev/urandom > content
                    dd if=content of=/dev/md0 bs=1M conv=fsync status=none
                    half=24576; echo $half > /sys/block/md0/md/sync_max
                    mdadm --quiet /dev/md0 --add $new; mdadm --quiet /dev/md0 --replace $old --with $new
                    while [ $(cut -d' ' -f1 /sys/block/md0/md/sync_completed) != $half ]; do sleep 0.1; done
                    cat /proc/mdstat
                    echo frozen > /sys/block/md0/md/sync_action; sleep 0.5
                    dd if=/dev/urandom of=content bs=4k count=300 seek=17 conv=notrunc status=none
                    dd if=content of=/dev/md0 bs=1M conv=fsync status=none
                    mdadm --stop --quiet /dev/md0; mdadm --examine $new""", timeout=600)
                self.assertIn("(R)", output)
                self.assertIn("Recovery Offset : 24576 sectors", output)
                data = (self.share / "content").read_bytes()
                old, new = names[1], names[disks]
                self.assertIn(f"{new}[{disks}](R)", self.tool("ro", *names, "--", "get=ours", "mdstat"))
                self.assertTrue((self.share / "ours").read_bytes() == data, "half replaced")
                said = self.tool("rw", *names, "--", "wait", "get=ours", "mdstat", "check")
                self.assertTrue((self.share / "ours").read_bytes() == data, "replaced")
                self.assertIn("(F)", said)
                self.assertIn("mismatch_cnt 0", said)
                self.read_by_linux([name for name in names if name != old], data, "replaced", True)

    def spoil_parity(self, name):
        """As if the power had gone before the parity of the first block was written: it is on this disk."""
        with open(self.share / name, "r+b") as file:
            file.seek(4096 + 128)
            file.seek(512 * int.from_bytes(file.read(8), "little"))
            file.write(bytes(4096))

    def test_a_partial_parity_log_of_linux_closes_the_write_hole_for_volfs(self):
        names = self.images(3, 8 * MIB)
        output = self.guest.check(f"""
            set -- $(attach {' '.join(names)})
            mdadm --create /dev/md0 --run --quiet --assume-clean -e 1.2 -l 5 -n 3 -c 64 --consistency-policy=ppl $*
            cat /sys/block/md0/md/consistency_policy
            echo 0 > /sys/block/md0/md/safe_mode_delay
            head -c $(blockdev --getsize64 /dev/md0) /dev/urandom > content
            dd if=content of=/dev/md0 bs=64k oflag=direct conv=fsync status=none
            dd if=/dev/urandom of=content bs=4k count=1 conv=notrunc status=none
            dd if=content of=/dev/md0 bs=4k count=1 oflag=direct conv=fsync status=none
            mdadm --examine $1 | grep State
            n=0; for disk in $*; do dd if=$disk of=copy$n.img bs=1M iflag=direct status=none; n=$((n + 1)); done
            mdadm --stop --quiet /dev/md0""")
        self.assertIn("ppl", output)
        self.assertIn("active", output)
        data = (self.share / "content").read_bytes()
        self.spoil_parity("copy2.img")
        self.tool("rw", "copy0.img", "copy2.img", "--", "get=ours")
        self.assertTrue((self.share / "ours").read_bytes() == data, "what was not written is lost")

    def test_a_partial_parity_log_of_volfs_closes_the_write_hole_for_linux(self):
        names = self.images(3, 8 * MIB)
        self.tool("create", "raid5", "left-symmetric", "64K", "1.2", "ppl", "clean", "3", *names)
        data = bytearray(self.content(int(self.tool("ro", *names, "--", "size")), 5))
        self.tool("rw", *names, "--", "put=content")
        self.read_by_linux(names, data, "with a PPL", True)
        data[:4096] = random.Random(6).randbytes(4096)
        (self.share / "patch").write_bytes(data[:4096])
        self.tool("rw", *names, "--", "patch=patch", "die")
        self.spoil_parity(names[2])
        self.read_by_linux([names[0], names[2]], data, "what was not written is lost", False)

    def test_a_resync_that_was_due_when_volfs_died_is_done_by_linux_log_or_not(self):
        names = self.images(3, 8 * MIB)
        self.tool("create", "raid5", "left-symmetric", "64K", "1.2", "ppl", "clean", "3", *names)
        data = bytearray(self.content(int(self.tool("ro", *names, "--", "size")), 7))
        (self.share / "patch").write_bytes(data[:4096])
        self.tool("rw", *names, "--", "put=content", "patch=patch", "die")
        with open(self.share / names[1], "r+b") as file:  # its log is lost, and parity wrong somewhere
            file.seek(8192)
            file.write(bytes(4096))
            file.seek(4096 + 128)
            file.seek(512 * int.from_bytes(file.read(8), "little") + MIB // 3)
            file.write(random.Random(8).randbytes(64 << 10))
        self.tool("rw", "slow", *names, "--", "patch=patch", "die")
        before = [(self.share / name).read_bytes() for name in names]
        output = self.guest.check(f"""
            set -- $(attach {' '.join(names)})
            mdadm --assemble --run --quiet /dev/md0 $*; cat /sys/block/md0/md/consistency_policy
            mdadm --wait --quiet /dev/md0 || true{IN_ORDER}""", timeout=600)
        self.assertIn("ppl\n", output)
        self.assertIn("mismatches: 0\ndegraded: 0\n", output)
        for name, bytes_before in zip(names, before, strict=True):
            (self.share / name).write_bytes(bytes_before)
        self.assertIn("mismatch_cnt 0", self.tool("rw", *names, "--", "wait", "check"))


if __name__ == "__main__":
    guest.skip_unless_possible()
    unittest.main(verbosity=2)
