#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference kernel boots, serves many scripts, and shares its images with the host."""

import hashlib
import os
import pathlib
import re
import tempfile
import unittest

import guest

MIB = 1 << 20


class Harness(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="volfs-images-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.share = pathlib.Path(cls.folder.name)
        cls.guest = guest.Guest(cls.share)
        cls.guest.start()
        cls.addClassCleanup(cls.guest.stop)

    def make_image(self, name, size):
        with open(self.share / name, "wb") as image:
            image.truncate(size)
        return name

    def test_status_and_output_come_back(self):
        status, output = self.guest.run("echo out; echo err >&2; exit 3")
        self.assertEqual((status, output), (3, "out\nerr\n"))

    def test_a_script_that_takes_too_long_is_ended(self):
        status, _ = self.guest.run("sleep 3000", timeout=1)
        self.assertEqual(status, 124)

    def test_device_mapper_has_the_targets(self):
        targets = self.guest.check(
            "for t in snapshot mirror raid flakey delay; do modprobe dm-$t; done; dmsetup targets")
        names = set(re.findall(r"^(\S+)\s+v", targets, re.MULTILINE))
        self.assertLessEqual({"linear", "striped", "error", "snapshot", "snapshot-origin", "snapshot-merge",
                              "mirror", "raid", "flakey", "delay"}, names)

    def test_a_map_reads_what_the_host_wrote_and_the_host_what_it_writes(self):
        image = self.make_image("linear.img", MIB)
        for content in (b"first" * 1000, b"other" * 1000):  # the second would show a stale cache
            with open(self.share / image, "r+b") as file:
                file.seek(4096)
                file.write(content)
            output = self.guest.check(f"""
                dmsetup create m --table "0 64 linear $(attach {image}) 8"
                head -c {len(content)} /dev/mapper/m | sha256sum
                printf written | dd of=/dev/mapper/m bs=512 seek=63 conv=notrunc status=none""")
            self.assertEqual(output.split()[0], hashlib.sha256(content).hexdigest())
            data = (self.share / image).read_bytes()
            self.assertEqual(data[4096 + 63 * 512:][:7], b"written")
            os.truncate(self.share / image, 0)
            os.truncate(self.share / image, MIB)

    def test_an_array_is_created_and_read_back(self):
        images = " ".join(self.make_image(f"member{i}.img", 8 * MIB) for i in range(3))
        content = b"volfs and Linux\n" * (4 * MIB // 16)
        (self.share / "content").write_bytes(content)
        created = self.guest.check(f"""
            mdadm --create /dev/md0 --run --quiet --level=5 --raid-devices=3 --chunk=64 $(attach {images})
            mdadm --wait /dev/md0 || true
            dd if=content of=/dev/md0 bs=1M status=none
            mdadm --detail --export /dev/md0""")
        self.assertIn("MD_LEVEL=raid5\n", created)
        magic = 0xA92B4EFC.to_bytes(4, "little")
        self.assertEqual((self.share / "member2.img").read_bytes()[4096:4100], magic)
        read = self.guest.check(f"""
            mdadm --assemble --quiet /dev/md0 $(attach {images} | head -n 2) --run
            grep -o 'raid5.*' /proc/mdstat
            head -c 4M /dev/md0 | sha256sum""")
        self.assertIn(hashlib.sha256(content).hexdigest(), read)

    def test_a_linear_array(self):
        if self.guest.run("modprobe linear")[0] != 0:
            self.skipTest("this kernel has no linear arrays")
        images = " ".join(self.make_image(f"linear{i}.img", 2 * MIB) for i in range(2))
        self.guest.check(f"mdadm --create /dev/md0 --run --quiet --level=linear --raid-devices=2 $(attach {images})")

    def test_a_logical_volume_holds_a_file_system(self):
        image = self.make_image("pv.img", 32 * MIB)
        self.guest.check(f"""
            disk=$(attach {image})
            vgcreate -q -q vg0 "$disk"
            lvcreate -q -q -an -n root -L 16M vg0
            lvchange -q -q -ay vg0/root
            mkfs.ext4 -q /dev/vg0/root
            mkdir /tmp/mnt && mount /dev/vg0/root /tmp/mnt && echo kept >/tmp/mnt/file""")
        output = self.guest.check(f"""
            attach {image} >/tmp/disk
            vgchange -q -q -ay vg0
            mkdir -p /tmp/mnt && mount /dev/vg0/root /tmp/mnt && cat /tmp/mnt/file""")
        self.assertEqual(output, "kept\n")

    def test_what_a_script_leaves_is_taken_down(self):
        image = self.make_image("left.img", 4 * MIB)
        self.guest.check(f"""
            mkfs.ext4 -q {image}; mkdir -p /tmp/left; mount $(attach {image}) /tmp/left
            dmsetup create left --table "0 8 zero" """)
        output = self.guest.check("losetup -a; dmsetup ls; grep left /proc/mounts || true")
        self.assertEqual(output, "No devices found\n")


if __name__ == "__main__":
    guest.skip_unless_possible()
    unittest.main(verbosity=2)
