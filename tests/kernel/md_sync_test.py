#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Resync counts what Linux's counts, and a replacement that the one has begun the other goes on with."""
import os
import re

import kernel_lab
import lab
from lab import MiB, equal, holds, volfs
from md_superblock import RECOVERY_OFFSET, REPLACEMENT, Superblock

KINDS = {"raid1": (3, "", "1.2"), "raid5": (3, "-c 64", "0.90"), "raid6": (4, "-c 64", "1.2"),
         "raid10": (4, "-c 64 -p n2", "1.2")}


def create(t, level, disks, words, version, size, count):
    """An array of Linux on disks of random bytes, COUNT of them; its first images."""
    images = [t.file(f"{level}-{i}.img", size) for i in range(count)]
    for path in images:
        path.write_bytes(t.random.randbytes(size))
    named = "" if version == "0.90" else "--name=a --homehost=any"
    t.linux.check(f"""
        mdadm --create /dev/md0 --run --quiet -l {level} -n {disks} -e {version} {words} {named} \
          --assume-clean -b none $(attach {' '.join(map(str, images[:disks]))})
        mdadm --stop --quiet /dev/md0""")
    return images


def define(t, level, images, more=""):
    names = "".join(f"  d{i}: {{path: {path.name}}}\n" for i, path in enumerate(images))
    disks = KINDS[level][0]
    devices = ", ".join(f"d{i}" for i in range(disks))
    spares = ", ".join(f"d{i}" for i in range(disks, len(images)))
    return t.define(f"volfs: 1\nimages:\n{names}arrays:\n  a: {{level: {level}, devices: [{devices}]"
                    + (f", spares: [{spares}]" if spares else "") + f"{more}}}\n")


def test_a_resync_counts_what_it_found_different_as_linux_does(t):
    for level, (disks, words, version) in KINDS.items():
        images = create(t, level, disks, words, version, 4 * MiB, disks)
        for path in images:
            block = Superblock(path, version)
            block.set_dirty()
            block.write()
        said = t.linux.check(f"""
            cd /run; for image in {' '.join(map(str, images))}; do cp $image .; done
            mdadm --assemble --run --quiet /dev/md0 $(attach *.img)
            mdadm --readwrite /dev/md0 2>/dev/null || true
            mdadm --wait /dev/md0 || true
            echo mismatches: $(cat /sys/block/md0/md/mismatch_cnt) $(cat /sys/block/md0/md/resync_start)
            mdadm --stop --quiet /dev/md0; losetup -D; rm *.img""")
        count = int(re.search(r"mismatches: (\d+) none", said)[1])
        t.mount(define(t, level, images))
        ours = volfs("array", "wait", t.mnt / "a", "--timeout", "300")
        t.umount()
        equal(ours, f"mismatch_cnt {count}\n", f"{level} {version}")


def sync_of(t):
    return next(each for each in t.status()["devices"] if each["name"] == "a")["array"]["sync"]


def test_a_replacement_is_gone_on_with(t):
    size = 64 * MiB
    for level in ("raid1", "raid5", "raid10"):
        disks, words, _ = KINDS[level]
        images = create(t, level, disks, words, "1.2", size, disks + 1)
        t.linux.check(f"""
            set -- $(attach {' '.join(map(str, images))})
            mdadm --assemble --run --quiet /dev/md0 ${{@:1:{disks}}}
            head -c $(blockdev --getsize64 /dev/md0) /dev/urandom > {t.path}/content
            dd if={t.path}/content of=/dev/md0 bs=1M conv=fsync status=none
            [ {level} = raid1 ] || {{ echo repair > /sys/block/md0/md/sync_action; mdadm --wait /dev/md0 || true; }}
            echo 4000 > /sys/block/md0/md/sync_speed_max
            echo 4000 > /sys/block/md0/md/sync_speed_min
            mdadm --quiet /dev/md0 --add ${{@:{disks + 1}:1}}
            mdadm --quiet /dev/md0 --replace $1 --with ${{@:{disks + 1}:1}}
            until [ "$(cut -d' ' -f1 /sys/block/md0/md/sync_completed)" != none ] &&
                  [ "$(cut -d' ' -f1 /sys/block/md0/md/sync_completed)" -gt 20000 ]; do sleep 0.2; done
            mdadm --stop --quiet /dev/md0""")
        begun = recovered(images[disks])
        holds(begun > 4 * MiB, f"{level}: Linux has recorded {begun}")
        t.mount(define(t, level, images, ", sync_speed_max: 4MiB, sync_speed_min: 4MiB"))
        lab.wait_until(lambda: sync_of(t)["action"] == "recover", f"{level}: recovery")
        at = sync_of(t)["position"]
        holds(at >= begun, f"{level}: goes on at {at}, Linux stood at {begun}")
        lab.wait_until(lambda: sync_of(t)["position"] > at + 6 * MiB, f"{level}: a part of it")
        t.umount()
        left = recovered(images[disks])
        holds(left > begun + 4 * MiB, f"{level}: left at {left} what was begun at {begun}")
        said = t.linux.check(f"""
            set -- $(attach {' '.join(map(str, images))})
            echo 1000 > /proc/sys/dev/raid/speed_limit_max
            echo 1000 > /proc/sys/dev/raid/speed_limit_min
            mdadm --assemble --run --quiet /dev/md0 $*
            mdadm --readwrite /dev/md0 2>/dev/null || true
            until grep -q recovery /proc/mdstat; do sleep 0.1; done
            sleep 0.5
            echo at: $(cat /sys/block/md0/md/sync_completed)
            echo 200000 > /proc/sys/dev/raid/speed_limit_max
            mdadm --wait /dev/md0 || true
            echo state: $(cat /sys/block/md0/md/dev-$(basename ${{@:{disks + 1}:1}})/state)
            echo check > /sys/block/md0/md/sync_action; mdadm --wait /dev/md0 || true
            echo mismatches: $(cat /sys/block/md0/md/mismatch_cnt)
            cmp /dev/md0 {t.path}/content
            mdadm --stop --quiet /dev/md0""")
        resumed = 512 * int(re.search(r"at: (\d+) /", said)[1])
        holds(resumed >= left, f"{level}: Linux goes on at {resumed}, volfs stood at {left}")
        holds("state: in_sync" in said and "mismatches: 0\n" in said, said)
        t.mount(*images[1:])
        name = next(entry for entry in t.mnt.iterdir() if entry.name != ".volfs")
        equal(name.read_bytes(), (t.path / "content").read_bytes(), f"{level}: without whom was replaced")
        t.umount()
        for path in images:
            os.unlink(path)


def recovered(path):
    block = Superblock(path, "1.2")
    equal(block.features() & (RECOVERY_OFFSET | REPLACEMENT), RECOVERY_OFFSET | REPLACEMENT, "the features")
    return block.recovery_offset()


if __name__ == "__main__":
    kernel_lab.main(globals())
