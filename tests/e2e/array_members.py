# SPDX-License-Identifier: GPL-2.0-or-later
"""Which members an array has: by the definition, by the superblocks and as they were added; and what is done
to an array on a running mount, one thing after the other."""
import os
import re

import lab
from lab import KiB, MiB, equal, holds, stderr_of, volfs

DISK = 16 * MiB


def define(t, text, count=3):
    images = "".join(f"  d{i}: {{path: d{i}.img}}\n" for i in range(count))
    return t.define(f"volfs: 1\nimages:\n{images}arrays:\n  a: {text}\n")


def create(t, words, count=3, members=None):
    members = members or [f"d{i}" for i in range(count)]
    sizes = "".join(f"  d{i}: {{path: d{i}.img, size: {DISK}}}\n" for i in range(count))
    volfs("create", t.define(f"volfs: 1\nimages:\n{sizes}arrays:\n  a: {{{words}, devices: [{', '.join(members)}], "
                             "assume_clean: true}\n"))
    return [t.path / f"d{i}.img" for i in range(count)]


def mount(t, *sources, options=()):
    """Mounts; what it says on standard error."""
    said = stderr_of(lab.VOLFS, "mount", *sources, t.mnt, *(f"-o{option}" for option in options), status=0)
    t.cleanup.callback(t.take_off, t.mnt)
    return said


def fill(t, name="a"):
    size = os.path.getsize(t.mnt / name)
    data = t.random.randbytes(size)
    with open(t.mnt / name, "r+b") as file:
        file.write(data)
        os.fsync(file.fileno())
    return data


def members(t, name="a"):
    device = next(each for each in t.status()["devices"] if each["name"] == name)
    return {member["device"]: member.get("slot") for member in device["array"]["members"]}


def test_a_member_that_is_cut_off_is_told_alike_by_scan_and_mount(t):
    images = create(t, "level: raid5")
    os.truncate(images[1], DISK - 123456)
    told = volfs("scan", *images)
    line = next(line for line in told.splitlines() if line.startswith("d1.img: cut off"))
    holds("123456 bytes are missing" in line and "--rescue" in line and f"pad: {DISK}" in line, line)
    holds("2 of 3 members" in told and "slot 1 is missing" in told, told)
    said = mount(t, *images)
    holds(line in said and "slot 1 is missing" in said, said)
    equal(members(t), {"d0.img": 0, "d2.img": 2}, "the members")
    t.umount()
    holds("3 of 3" not in told, told)
    found = t.define(volfs("scan", "--yaml", *images), "found.yaml")
    mount(t, found)
    equal(members(t), {"d0.img": 0, "d1.img": 1, "d2.img": 2}, "the members with pad")
    t.umount()


def test_a_list_in_another_order_than_the_superblocks_is_told(t):
    create(t, "level: raid5", members=["d2", "d0", "d1"])
    in_order = mount(t, define(t, "{level: raid5, devices: [d2, d0, d1]}"))
    holds("superblocks" not in in_order, in_order)
    data = fill(t)
    t.umount()
    said = mount(t, define(t, "{level: raid5, devices: [d0, d1, d2]}"))
    holds("a: its devices are [d0, d1, d2] in the definition, but by their superblocks [d2, d0, d1]: the "
          "superblocks count" in said, said)
    equal(members(t), {"d2": 0, "d0": 1, "d1": 2}, "the slots")
    equal((t.mnt / "a").read_bytes(), data, "the data")
    t.umount()


def test_a_member_that_was_added_and_is_not_listed_is_told(t):
    create(t, "level: raid1", members=["d0", "d1"])
    without = define(t, "{level: raid1, devices: [d0, d1]}")
    mount(t, without)
    data = fill(t)
    volfs("array", "fail", t.mnt / "a", "d1")
    volfs("array", "remove", t.mnt / "a", "d1")
    said = stderr_of(lab.VOLFS, "array", "add", t.mnt / "a", "d2", "--yes", status=0)
    holds("does not list d2 as one of the devices or spares of 'a': write it there" in said, said)
    volfs("array", "wait", t.mnt / "a", "--timeout", "300")
    t.umount()
    said = mount(t, without, options=["ro"])
    holds("a: slot 1 is missing: by the superblocks device 2 is there, which is none of those given" in said, said)
    t.umount()
    mount(t, define(t, "{level: raid1, devices: [d0, d2]}"))
    equal(members(t), {"d0": 0, "d2": 1}, "the members")
    said = stderr_of(lab.VOLFS, "array", "fail", t.mnt / "a", "d2", status=0)
    volfs("array", "remove", t.mnt / "a", "d2")
    said = stderr_of(lab.VOLFS, "array", "add", t.mnt / "a", "d2", "--yes", status=0)
    equal(said, "", "of one that is listed")
    volfs("array", "wait", t.mnt / "a", "--timeout", "300")
    equal((t.mnt / "a").read_bytes(), data, "the data")
    t.umount()


def test_a_half_that_was_written_apart_is_only_overwritten_when_told(t):
    for metadata in ("1.2", "0.90"):
        images = create(t, f'level: raid1, metadata: "{metadata}"', 2)
        for turn, image in enumerate(images):
            for _ in range(1 + 2 * turn):
                alone = define(t, f'{{level: raid1, metadata: "{metadata}", devices: [d{turn}, missing]}}', 2)
                mount(t, alone)
                fill(t)
                t.umount()
        kept = images[0].read_bytes()
        both = define(t, f'{{level: raid1, metadata: "{metadata}", devices: [d0, d1]}}', 2)
        said = mount(t, both, options=["rw"])
        holds("d0 is left out and not changed: it and d1 were written apart" in said
              and "its event count is higher" in said, said)
        equal(list(members(t)), ["d1"], "the members")
        for words in ((), ("--re-add",)):
            said = stderr_of(lab.VOLFS, "array", "add", t.mnt / "a", "d0", *words, status=1)
            holds("nothing was done: this would be lost: d0: a member of array" in said
                  and "written apart from 'a'" in said, said)
        equal(images[0].read_bytes(), kept, "the other half")
        volfs("array", "add", t.mnt / "a", "d0", "--yes")
        volfs("array", "wait", t.mnt / "a", "--timeout", "300")
        equal(members(t), {"d0": 0, "d1": 1}, "the members")
        # One that is no more than away holds nothing that the others do not.
        volfs("array", "fail", t.mnt / "a", "d0")
        volfs("array", "remove", t.mnt / "a", "d0")
        volfs("array", "add", t.mnt / "a", "d0")
        volfs("array", "wait", t.mnt / "a", "--timeout", "300")
        t.umount()
        for image in images:
            image.unlink()


def test_images_of_an_array_are_told_of_once(t):
    images = create(t, "level: raid1", 3, members=["d0", "d1", "d2"])
    with open(images[2], "r+b") as file:
        file.truncate(DISK // 2)
    for options in ([], ["rw"]):
        said = mount(t, *images, options=options).splitlines()
        equal(len(said), len(set(said)), f"{options}: lines told twice: {said}")
        holds(not any("none of those given" in line for line in said), said)
        t.umount()
    said = mount(t, images[0], images[2])
    equal(said.count("slot 1 is missing: by the superblocks device 1 is there, which is none of those given"), 1, said)
    equal(said.count("none of those given"), 1, said)
    t.umount()


def levels(t):
    """How many members each array has."""
    return {each["name"]: len(each["array"]["members"]) for each in t.status()["devices"] if "array" in each}


def lower_ones(t, count):
    """What levels() is of the two that 'a' stands on, if all of them have COUNT members."""
    names = [name for name in members(t) if not name.startswith("d")]
    equal(len(names), 2, "arrays below")
    return dict.fromkeys(names, count)


def test_an_array_on_arrays_whose_superblocks_are_at_the_end(t):
    """The upper one's superblock, at the start, is seen on the images, too: it is not assembled of these."""
    for metadata in ("1.0", "0.90"):
        images = "".join(f"  d{i}: {{path: d{i}.img, size: {DISK}}}\n" for i in range(4))
        lower = "".join(f'  low{i}: {{level: raid1, metadata: "{metadata}", devices: [d{2 * i}, d{2 * i + 1}], '
                        "assume_clean: true, hidden: true}\n" for i in range(2))
        definition = t.define(f"volfs: 1\nimages:\n{images}arrays:\n{lower}"
                              "  a: {level: raid1, devices: [low0, low1], assume_clean: true}\n")
        volfs("create", definition)
        mount(t, definition)
        fill(t)
        t.umount()
        halves = [t.path / "d0.img", t.path / "d2.img"]
        mount(t, *halves, options=["rw"])
        equal(levels(t), {"a": 2, **lower_ones(t, 1)}, f"{metadata}: members, one of each mirror given")
        data = fill(t)
        t.umount()
        mount(t, *(t.path / f"d{i}.img" for i in range(4)))
        equal((t.mnt / "a").read_bytes(), data, f"{metadata}: what was written then")
        equal(levels(t), {"a": 2, **lower_ones(t, 1)}, f"{metadata}: members, all given")
        t.umount()
        for i in range(4):
            (t.path / f"d{i}.img").unlink()


def test_check_repair_stop_and_assemble_one_after_the_other(t):
    for level, damaged in (("raid1", 1), ("raid5", 2), ("raid6", 3), ("raid10", 3)):
        count = 4 if level in ("raid6", "raid10") else 3
        images = create(t, f"level: {level}" + ("" if level == "raid1" else ", chunk: 64KiB"), count)
        names = [f"d{i}" for i in range(count)]
        definition = define(t, f"{{level: {level}, devices: [{', '.join(names)}]}}", count)
        mount(t, definition)
        data = fill(t)
        t.umount()
        with open(images[damaged], "r+b") as image:  # the first chunk of parity, or a second copy
            image.seek(4096 + 128)
            start = 512 * int.from_bytes(image.read(8), "little")
            image.seek(start)
            image.write(t.random.randbytes(64 * KiB))
        mount(t, definition)
        path = t.mnt / "a"

        def after(verb):
            volfs("array", verb, path)
            said = volfs("array", "wait", path, "--timeout", "300")
            return int(re.fullmatch(r"mismatch_cnt (\d+)\n", said)[1])

        holds(after("check") > 0, f"{level}: the damage is not found")
        holds(after("check") > 0, f"{level}: a check has mended it")
        holds(after("repair") > 0, f"{level}: repair finds nothing")
        equal(after("check"), 0, f"{level}: after the repair")
        equal(path.read_bytes(), data, f"{level}: the data")
        volfs("array", "stop", path)
        equal([entry.name for entry in t.mnt.iterdir()], [".volfs"], f"{level}: what is left")
        volfs("array", "assemble", path, *names)
        equal(path.read_bytes(), data, f"{level}: the data after it was stopped")
        equal(after("check"), 0, f"{level}: after it was stopped")
        volfs("array", "fail", path, "d0")
        equal(path.read_bytes(), data, f"{level}: the data without a member")
        volfs("array", "stop", path)
        volfs("array", "assemble", path, *names[1:])
        data = fill(t)
        volfs("array", "add", path, "d0", "--yes")
        volfs("array", "wait", path, "--timeout", "300")
        equal(after("check"), 0, f"{level}: after the recovery")
        equal(path.read_bytes(), data, f"{level}: the data in the end")
        t.umount()
        for image in images:
            image.unlink()


def test_an_array_takes_nothing_in_that_stands_on_itself(t):
    create(t, "level: raid1", 4, ["d0", "d1"])
    mount(t, define(t, "{level: raid1, devices: [d0, d1]}", 4))
    data = fill(t)
    sectors = len(data) // 512
    volfs("map", "create", t.mnt / "on", "--table", f"0 {sectors} linear a 0")
    volfs("map", "create", t.mnt / "far", "--table", f"0 {sectors} linear on 0")
    volfs("map", "create", t.mnt / "later", "--table", f"0 {sectors} zero")
    volfs("map", "load", t.mnt / "later", "--table", f"0 {sectors} linear a 0")
    volfs("snapshot", "create", t.mnt / "snap", "--origin", "a", "--cow", t.path / "snap.cow")

    def refused(device, what, *options):
        said = stderr_of(lab.VOLFS, "array", "add", t.mnt / "a", device, *options, "--yes", timeout=60)
        holds(what in said, said)

    refused("a", "a: cannot be a member of itself")
    refused("a", "a: cannot be a member of itself", "--re-add")
    refused("far", "a: far stands on the array itself: far -> on -> a")
    refused("later", "a: later stands on the array itself: later -> a")
    refused("snap", "a: snap stands on the array itself: snap -> a")
    stderr_of(lab.VOLFS, "array", "replace", t.mnt / "a", "d0", "--with", "far", timeout=60)
    holds("there is a device of that name" in
          stderr_of(lab.VOLFS, "array", "create", t.mnt / "a", "--level=1", "--raid-devices=2", "far", "d2", "--yes",
                    timeout=60), "an array over itself")
    equal((t.mnt / "a").read_bytes(), data, "the array")
    volfs("array", "add", t.mnt / "a", "d2", "--yes")
    equal(members(t), {"d0": 0, "d1": 1, "d2": None}, "the members")


def test_a_live_map_is_only_laid_over_what_another_owns_to_read(t):
    create(t, "level: raid1", 3, ["d0", "d1"])
    volfs("create", t.define(f"volfs: 1\nimages:\n  p0: {{path: p0.img, size: {DISK}}}\nvolume_groups:\n"
                             "  vg0: {physical_volumes: [p0]}\n"))
    t.file("c.img", 4 * MiB)
    images = "".join(f"  {name}: {{path: {name}.img}}\n" for name in ("d0", "d1", "d2", "p0", "c"))
    mount(t, t.define(f"volfs: 1\nimages:\n{images}arrays:\n  a: {{level: raid1, devices: [d0, d1]}}\n"
                      "volume_groups:\n  vg0: {physical_volumes: [p0]}\nsnapshots:\n  s: {origin: d2, cow: c}\n"))
    data = fill(t)
    owners = (("d0", "array 'a'"), ("p0", "volume group 'vg0'"), ("c", "snapshot 's'"))
    volfs("map", "create", t.mnt / "m", "--table", "0 8 linear d2 0\n8 8 linear a 0")
    for device, owner in owners:
        for verb, name in (("create", "x"), ("load", "m")):
            said = stderr_of(lab.VOLFS, "map", verb, t.mnt / name, "--table", f"0 8 zero\n8 8 linear {device} 0")
            holds(f"in use by {owner}" in said and "table:2" in said, f"{verb} over {device}: {said}")
        holds(not (t.mnt / "x").exists(), f"a map over {device}")
        volfs("map", "create", t.mnt / f"look-{device}", "-r", "--table", f"0 8 linear {device} 0")
    volfs("map", "load", t.mnt / "look-d0", "-r", "--table", "0 16 linear d0 0")
    said = stderr_of(lab.VOLFS, "map", "load", t.mnt / "look-d0", "--table", "0 16 linear d0 0")
    holds("in use by array 'a'" in said, said)
    volfs("map", "remove", t.mnt / "look-p0")
    said = stderr_of(lab.VOLFS, "array", "add", t.mnt / "a", "p0", "--yes")
    holds("p0: in use by volume group 'vg0'" in said, said)
    equal((t.mnt / "a").read_bytes(), data, "the array")


lab.main(globals())
