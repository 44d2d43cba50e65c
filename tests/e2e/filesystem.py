# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job: a definition is made and mounted, a loop device attaches to a volume, ext4 is made
on it, and what was copied there survives unmounting and mounting again."""
import os
import shutil

import lab
from lab import MiB, equal, run, volfs

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 96MiB}
  disk1: {path: disk1.img, size: 96MiB}
maps:
  data:
    table: |
      0 131072 striped 2 128 disk0 0 disk1 0
      131072 65536 linear disk0 65536
"""


def a_tree(where):
    """Files of many sizes, links and a hole."""
    where.mkdir()
    for i in range(100):
        (where / f"file{i}").write_bytes(os.urandom(1 + i * i * 13))
    (where / "deep/er").mkdir(parents=True)
    (where / "deep/er/big").write_bytes(os.urandom(5 * MiB))
    os.symlink("deep/er/big", where / "link")
    with open(where / "hole", "wb") as file:
        file.seek(3 * MiB)
        file.write(b"end")


def same_trees(a, b):
    run("diff", "-r", "--no-dereference", a, b)


def test_ext4_on_a_loop_device_survives_a_remount(t):
    lab.need_loop()
    lab.need_program("mkfs.ext4", "e2fsck")
    definition = t.define(DEFINITION)
    volfs("create", definition)
    a_tree(t.path / "tree")
    t.mount(definition)
    volume = t.mnt / "data"
    equal(volume.stat().st_size, 96 * MiB, "size of the volume")
    loop = t.loop(volume)
    run("mkfs.ext4", "-q", loop)
    fs = t.mount_fs(loop, "fs")
    shutil.copytree(t.path / "tree", fs / "tree", symlinks=True)
    run("umount", fs)
    run("losetup", "-d", loop)
    t.umount()

    t.mount(definition)
    loop = t.loop(volume)
    run("e2fsck", "-fn", loop)
    fs = t.mount_fs(loop, "fs")
    same_trees(t.path / "tree", fs / "tree")
    run("umount", fs)
    run("losetup", "-d", loop)
    t.umount()


def test_ext4_without_loop_devices_as_an_ordinary_user(t):
    """mke2fs and debugfs work on the file itself: no root, no loop device."""
    lab.need_program("mkfs.ext4", "debugfs", "fusermount3")
    user = t.ordinary_user()
    definition = t.define(DEFINITION)
    a_tree(t.path / "tree")
    run(lab.VOLFS, "create", definition, **user)
    t.mount(definition, **user)
    volume = t.mnt / "data"
    run("mkfs.ext4", "-q", "-F", "-d", t.path / "tree", volume, **user)
    run(lab.VOLFS, "umount", t.mnt, **user)
    t.mount(definition, **user)
    run("e2fsck", "-fn", volume, **user)
    run("debugfs", "-R", f"rdump /deep {t.path}", volume, **user)
    same_trees(t.path / "tree/deep", t.path / "deep")
    run(lab.VOLFS, "umount", t.mnt, **user)


lab.main(globals())
