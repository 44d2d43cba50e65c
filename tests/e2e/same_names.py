#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two volume groups of one name, as after images of two machines were put beside each other: each is shown, the
second by uuid as NAME@UUID, and everything that is done to volumes can be done to its, too."""
import json
import os
import shutil

import lab as lab_module
from lab import MiB, VOLFS, equal, holds, stderr_of, volfs

FIRST, SECOND = "aaaaaa-0000-0000-0000-0000-0000-000001", "bbbbbb-0000-0000-0000-0000-0000-000001"
OTHER = f"vg0@{SECOND}"
DISKS = {FIRST: ["z0", "z1"], SECOND: ["a0"]}  # the images' names stand in the other order


def make(lab):
    """The groups, and what their volumes hold."""
    data = {}
    for uuid, disks in DISKS.items():
        images = ", ".join(f"{disk}: {{path: {disk}.img, size: 24MiB}}" for disk in disks)
        path = lab.define(f"volfs: 1\nimages: {{{images}}}\nvolume_groups:\n  vg0: {{uuid: {uuid}, extent_size: 1MiB, "
                          f"physical_volumes: [{', '.join(disks)}], logical_volumes: {{same: {{size: 4MiB}}}}}}\n",
                          f"{uuid[:6]}.yaml")
        volfs("create", path)
        lab.mount(path)
        data[uuid] = lab.random.randbytes(4 * MiB)
        write(lab.mnt / "vg0/same", data[uuid])
        lab.umount()
    return data


def write(path, data, offset=0):
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, offset)


def images(lab, *names):
    return [lab.path / f"{name}.img" for name in names]


def define_both(lab, more="", second=""):
    return lab.define("volfs: 1\nimages: {z0: z0.img, z1: z1.img, a0: a0.img}\nvolume_groups:\n"
                      f"  {OTHER}: {{physical_volumes: [a0]{second}}}\n  vg0: {{physical_volumes: [z0, z1]}}\n{more}")


def both_hold(lab, data, what):
    equal(sorted(name for name in os.listdir(lab.mnt) if name.startswith("vg")), ["vg0", OTHER], what)
    equal((lab.mnt / "vg0/same").read_bytes(), data[FIRST], f"{what}: the first")
    equal((lab.mnt / OTHER / "same").read_bytes(), data[SECOND], f"{what}: the second")


def group_on(image):
    """What the metadata on an image calls its group."""
    return {copy["group"] for disk in json.loads(volfs("inspect", "--json", image)) if disk.get("lvm")
            for copy in disk["lvm"]["metadata_areas"][0]["copies"]}


def test_whatever_the_order_of_the_images(lab):
    data = make(lab)
    for order in (["z0", "z1", "a0"], ["a0", "z1", "z0"]):
        lab.mount(*images(lab, *order))
        both_hold(lab, data, f"mounted as {order}")
        lab.umount()
    told = volfs("scan", *images(lab, "z0", "z1", "a0"))
    holds(f"there is another volume group of the name 'vg0'; this one is '{OTHER}'" in told, told)
    holds(f"volume group '{OTHER}': 1 of 1 physical volumes" in told, told)
    text = volfs("scan", "--yaml", *images(lab, "a0", "z0", "z1"))
    holds(f'"{OTHER}":\n    physical_volumes:\n      - "a0.img"\n' in text, text)
    lab.mount(lab.define(text))
    both_hold(lab, data, "as the scan defines them")
    lab.umount()
    # Alone it has the name to itself.
    lab.mount(*images(lab, "a0"))
    equal((lab.mnt / "vg0/same").read_bytes(), data[SECOND], "alone")
    lab.umount()
    volfs("mount", "--rescue", *images(lab, "z0", "a0"), lab.mnt)
    lab.cleanup.callback(lab.take_off, lab.mnt)
    equal((lab.mnt / OTHER / "same").read_bytes(), data[SECOND], "rescued")


def test_the_second_is_changed_as_any_group(lab):
    data = make(lab)
    lab.mount(define_both(lab))
    vg = lab.mnt / OTHER
    volfs("lv", "create", vg / "new-one", "-L", "2")
    volfs("lv", "create", lab.mnt / "vg0/new-one", "-L", "3")
    table = (lab.mnt / ".volfs/table").read_text()
    holds(f"vg0@{SECOND.replace('-', '--')}-new--one: 0 4096 linear a0 " in table, table)
    holds("\nvg0-new--one: 0 6144 linear z" in table, table)
    new = lab.random.randbytes(2 * MiB)
    write(vg / "new-one", new)
    volfs("lv", "rename", vg / "new-one", "kept")
    volfs("lv", "extend", vg / "kept", "-L", "+1")
    volfs("lv", "create", vg / "before", "-s", "kept", "-L", "2")
    write(vg / "kept", b"x" * MiB)
    equal((vg / "before").read_bytes()[:2 * MiB], new, "the snapshot")
    volfs("lv", "remove", "--yes", vg / "before")
    volfs("lv", "change", vg / "kept", "--addtag", "second")
    volfs("lv", "deactivate", vg / "kept")
    holds(not (vg / "kept").exists(), "deactivated")
    volfs("lv", "activate", vg / "kept")
    where = volfs("where", vg / "same", 0)
    equal(where.split()[2:4], ["image", "a0"], "where")
    tree = volfs("tree", lab.mnt)
    holds(f"{OTHER}/kept" in tree, tree)
    volfs("map", "create", lab.mnt / "above", "--table", f"0 100 linear {OTHER}/kept 0")
    equal((lab.mnt / "above").read_bytes()[:512], b"x" * 512, "a map on it")
    told = stderr_of(VOLFS, "lv", "remove", "--yes", vg / "kept")
    holds("in use by above" in told, told)
    volfs("map", "remove", lab.mnt / "above")
    volfs("lv", "remove", "--yes", lab.mnt / "vg0/new-one")
    equal([(group["name"], group["uuid"]) for group in lab.status()["volume_groups"]], [(OTHER, SECOND), ("vg0", FIRST)])
    both_hold(lab, data, "after the changes")
    lab.umount()
    for name in ("a0", "z0"):
        equal(group_on(lab.path / f"{name}.img"), {"vg0"}, f"the name on {name}")
    lab.mount(define_both(lab, f"maps: {{above: {{table: '0 100 linear {OTHER}/kept 0'}}}}\n"))
    equal((lab.mnt / "above").read_bytes()[:512], b"x" * 512, "defined")
    equal((lab.mnt / OTHER / "kept").read_bytes()[MiB:2 * MiB], new[MiB:], "what was written")


def test_apply_reaches_it(lab):
    data = make(lab)
    lab.mount(define_both(lab))
    path = define_both(lab, second=", extent_size: 1MiB, logical_volumes: {same: {size: 5MiB}, more: {size: 1MiB}}")
    volfs("apply", "--yes", path, lab.mnt)
    equal(sorted(os.listdir(lab.mnt / OTHER)), ["more", "same"], "applied")
    equal(os.stat(lab.mnt / OTHER / "same").st_size, 5 * MiB, "extended")
    equal((lab.mnt / OTHER / "same").read_bytes()[:4 * MiB], data[SECOND], "its bytes")
    holds("nothing" in volfs("apply", "--yes", path, lab.mnt), "all is as it is defined")
    # A group that comes by a definition, beside one of its name.
    lab.umount()
    alone = lab.define("volfs: 1\nimages: {z0: z0.img, z1: z1.img, a0: a0.img}\nvolume_groups:\n"
                       "  vg0: {physical_volumes: [z0, z1]}\n", "alone.yaml")
    lab.mount(alone)
    volfs("apply", "--yes", path, lab.mnt)
    equal(sorted(os.listdir(lab.mnt / OTHER)), ["more", "same"], "it has come")


def test_one_that_joins_leaves_the_name_to_who_has_it(lab):
    data = make(lab)
    # Now the one that is there would be the second by uuid.
    lab.mount(*images(lab, "a0"), options=["rw"])
    volfs("image", "add", lab.mnt, "z0", lab.path / "z0.img")
    first = f"vg0@{FIRST}"
    volfs("image", "add", lab.mnt, "z1", lab.path / "z1.img")
    equal((lab.mnt / first / "same").read_bytes(), data[FIRST], "the one that joined")
    equal((lab.mnt / "vg0/same").read_bytes(), data[SECOND], "the one that was there")
    volfs("lv", "create", lab.mnt / first / "more", "-L", "1")
    volfs("lv", "deactivate", lab.mnt / first)
    holds(not (lab.mnt / first).exists(), "it has left")
    holds("on the mount already" in stderr_of(VOLFS, "lv", "activate", lab.mnt / "vg0"), "the name has an owner")
    volfs("lv", "activate", lab.mnt / first)
    equal(sorted(os.listdir(lab.mnt / first)), ["more", "same"], "by its full name")


def test_what_is_refused(lab):
    make(lab)
    coming = lab.define(f"volfs: 1\nimages: {{n0: {{path: n0.img, size: 8MiB}}}}\nvolume_groups:\n"
                        f"  {OTHER}: {{physical_volumes: [n0]}}\n")
    holds("expected a name of its own" in stderr_of(VOLFS, "create", coming), "a new group of such a name")
    holds(not (lab.path / "n0.img").exists(), "nothing is made of it")
    third = OTHER.replace("bbbbbb", "cccccc")
    path = lab.define(f"volfs: 1\nimages: {{a0: a0.img}}\nvolume_groups: {{{third}: {{physical_volumes: [a0]}}}}\n")
    told = stderr_of(VOLFS, "mount", path, lab.mnt)
    holds(f"there is no volume group '{third}'" in told, told)
    for key, said in (("vg0@bbbbbb-0000", "6-4-4-4-4-4-6"), ("vg0@", "6-4-4-4-4-4-6"), (f"v:0@{SECOND}", "letters, digits")):
        path = lab.define(f"volfs: 1\nimages: {{a0: a0.img}}\nvolume_groups: {{'{key}': {{physical_volumes: [a0]}}}}\n")
        told = stderr_of(VOLFS, "check", path, status=2)
        holds(said in told, f"{key}: {told}")
    # A copy has the same uuid, and nothing tells the two apart.
    shutil.copy(lab.path / "a0.img", lab.path / "copy.img")
    path = lab.define("volfs: 1\nimages: {a0: a0.img, copy: copy.img}\nvolume_groups:\n"
                      f"  vg0: {{physical_volumes: [a0]}}\n  {OTHER}: {{physical_volumes: [copy]}}\n")
    told = stderr_of(VOLFS, "mount", path, lab.mnt)
    holds("or a copy of it, which is on the mount already" in told, told)
    told = volfs("scan", *images(lab, "a0", "copy"))
    holds("a copy of volume group 'vg0' is left out: copy.img is a copy of a0.img" in told, told)


if __name__ == "__main__":
    lab_module.main(globals())
