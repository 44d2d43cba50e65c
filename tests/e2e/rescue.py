# SPDX-License-Identifier: GPL-2.0-or-later
"""volfs mount --rescue: what can be had of broken piles of images, a right report, and images unchanged."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

import lab
from lab import KiB, MiB, equal, holds, run, sha256, stderr_of, volfs

ARRAY = """
volfs: 1
images:
%s
arrays:
  nas: {level: %s, devices: [%s]}
"""


def build(t, level, count):
    """An array with a file system on it; returns the names of its images."""
    names = [f"d{i}" for i in range(count)]
    images = "\n".join(f"  {name}: {{path: {name}.img, size: 16MiB}}" for name in names)
    definition = t.define(ARRAY % (images, level, ", ".join(names)))
    volfs("create", definition)
    t.mount(definition)
    volfs("array", "wait", t.mnt / "nas", timeout=120)
    run("mke2fs", "-q", "-t", "ext4", "-L", "data", t.mnt / "nas")
    return definition, [t.path / f"{name}.img" for name in names]


def put(t, volume, name, text):
    source = t.path / name
    source.write_text(text)
    run("debugfs", "-w", "-R", f"write {source} {name}", volume)


def rescue(t, images):
    """Mounts and returns the report; the images' contents and times are checked at the end."""
    before = [(sha256(image), os.stat(image).st_mtime_ns) for image in images if image.exists()]
    report = json.loads(volfs("mount", "--rescue", "--json", *images, t.mnt))
    t.cleanup.callback(shutil.rmtree, report["overlay"], ignore_errors=True)
    t.cleanup.callback(t.take_off, t.mnt)
    return report, lambda: equal([(sha256(image), os.stat(image).st_mtime_ns) for image in images if image.exists()],
                                 before, "the images")


def volume(report, name):
    found = [each for each in report["volumes"] if each["volume"] == name]
    equal(len(found), 1, f"volumes of the name {name}")
    return found[0]


def test_raid5_with_a_member_lost_and_one_stale(t):
    _, images = build(t, "raid5", 4)
    put(t, t.mnt / "nas", "early", "written by all\n")
    volfs("array", "fail", t.mnt / "nas", "d1")
    volfs("array", "remove", t.mnt / "nas", "d1")
    t.umount()
    # d1 is out of date, and d2 is lost: only with d1 there is anything to read.
    report, unchanged = rescue(t, [images[0], images[1], images[3]])
    array = report["found"]["arrays"][0]
    equal((array["level"], array["raid_disks"], array["md_name"]), ("raid5", 4, "nas"), "the array")
    states = {member["device"]: member["state"] for member in array["members"]}
    equal(states, {"d0.img": "in sync", "d1.img": "out of date", "d3.img": "in sync"}, "the members")
    nas = volume(report, "nas")
    equal(nas["state"], "degraded", "the state")
    holds("ext4" in nas["content"] and "data" in nas["content"], f"what is on it: {nas}")
    steps = "\n".join(report["next_steps"])
    holds("d1.img: was taken although it is out of date" in steps, steps)
    holds("degraded" in steps and report["overlay"] in steps, steps)
    run("e2fsck", "-fn", t.mnt / "nas")
    equal(run("debugfs", "-R", "cat early", t.mnt / "nas"), "written by all\n", "the file")
    # It is writable, and the images do not notice.
    put(t, t.mnt / "nas", "late", "written to the overlay\n")
    t.umount()
    unchanged()
    volfs("overlay", "discard", report["overlay"], "--yes")
    # The definition that says the same mounts, too.
    given = (images[0], images[1], images[3])
    for options, force in (([], False), (["--force"], True)):
        written = volfs("scan", *options, "--yaml", *given)
        equal("force: true" in written, force, f"force in\n{written}")
        holds(force == ("# not assembled: " not in written), written)
    t.mount(t.define(written))
    equal(run("debugfs", "-R", "cat early", t.mnt / "nas"), "written by all\n", "the file by a definition")


def test_scan_counts_slots_not_copies_of_a_member(t):
    _, images = build(t, "raid5", 3)
    t.umount()
    copy = t.path / "copy.img"
    shutil.copy(images[1], copy)
    said = volfs("scan", *images, copy)
    holds("array 'nas': 3 of 3 members" in said, said)


def test_a_stale_member_that_is_not_needed_is_left_out(t):
    _, images = build(t, "raid5", 3)
    volfs("array", "fail", t.mnt / "nas", "d1")
    volfs("array", "remove", t.mnt / "nas", "d1")
    put(t, t.mnt / "nas", "late", "written without d1\n")
    t.umount()
    report, unchanged = rescue(t, images)
    holds(any("d1.img: is left out of 'nas'" in step for step in report["next_steps"]), report["next_steps"])
    equal(run("debugfs", "-R", "cat late", t.mnt / "nas"), "written without d1\n", "the file")
    t.umount()
    unchanged()


def test_raid6_with_two_lost_and_dirty(t):
    _, images = build(t, "raid6", 5)
    put(t, t.mnt / "nas", "file", "of a raid6\n")
    os.kill(t.pid(), 9)
    lab.libc.umount2(str(t.mnt).encode(), 2)
    report, unchanged = rescue(t, images[2:])
    equal(volume(report, "nas")["state"], "degraded", "the state")
    holds(any("slots 0, 1 are missing" in note for note in report["found"]["arrays"][0]["notes"]), report["found"])
    equal(run("debugfs", "-R", "cat file", t.mnt / "nas"), "of a raid6\n", "the file")
    t.umount()
    unchanged()


def test_what_needs_a_sync_gets_none(t):
    """A recovery would fill the overlay with a copy of a whole member."""
    definition, images = build(t, "raid1", 2)
    volfs("array", "fail", t.mnt / "nas", "d1")
    volfs("array", "remove", t.mnt / "nas", "d1")
    t.umount()
    definition.write_text(definition.read_text().replace("level:", "sync_speed_max: 64KiB, level:"))
    t.mount(definition)
    volfs("array", "add", t.mnt / "nas", "d1")
    t.umount()
    report, unchanged = rescue(t, images)
    holds(any("volfs array idle" in step for step in report["next_steps"]), report["next_steps"])
    holds("recover" not in (t.mnt / ".volfs/mdstat").read_text().lower(), "a recovery runs")
    volfs("array", "idle", t.mnt / "nas")
    volfs("array", "wait", t.mnt / "nas", "--timeout", "60")
    equal([d["state"] for d in t.status()["devices"] if d["name"] == "nas"], ["active"], "after idle")
    t.umount()
    unchanged()


GROUP = """
volfs: 1
images:
  a: {path: a.img, size: 16MiB}
  b: {path: b.img, size: 16MiB}
%s
volume_groups:
  vg:
    extent_size: 1MiB
    physical_volumes: [%s]
    logical_volumes:
      root: {size: 6MiB}
      wide: {size: 16MiB}
"""


def test_lvm_on_half_a_raid1(t):
    text = GROUP % ("arrays: {md0: {level: raid1, devices: [a, b]}}", "md0")
    definition = t.define(text.replace("wide: {size: 16MiB}", "wide: {size: 4MiB}"))
    volfs("create", definition)
    t.mount(definition)
    content = t.random.randbytes(6 * MiB)
    (t.mnt / "vg/root").write_bytes(content)
    t.umount()
    report, unchanged = rescue(t, [t.path / "b.img"])
    equal(volume(report, "vg/root")["state"], "degraded", "the state")
    equal((t.mnt / "vg/root").read_bytes(), content, "the volume")
    t.umount()
    unchanged()


def two_disks(t):
    definition = t.define(GROUP % ("", "a, b"))
    volfs("create", definition)
    t.mount(definition)
    root, wide = t.random.randbytes(6 * MiB), t.random.randbytes(16 * MiB)
    (t.mnt / "vg/root").write_bytes(root)
    (t.mnt / "vg/wide").write_bytes(wide)
    t.umount()
    return root, wide


def test_a_group_with_a_volume_missing(t):
    root, wide = two_disks(t)
    report, unchanged = rescue(t, [t.path / "a.img"])
    equal(volume(report, "vg/root")["state"], "active", "root")
    holds(volume(report, "vg/wide")["state"] == "partial", "wide is not partial")
    holds("missing PV" in volume(report, "vg/wide")["problem"], "no reason")
    equal((t.mnt / "vg/root").read_bytes(), root, "root")
    with open(t.mnt / "vg/wide", "rb") as file:
        # The largest free area was taken first: all of the other disk.
        equal(os.pread(file.fileno(), MiB, 15 * MiB), wide[15 * MiB:], "the part that is there")
        lab.raises(5, os.pread, file.fileno(), 4096, 0)
    t.umount()
    unchanged()


def remarked(report, *words):
    holds(any(all(word in remark for word in words) for remark in report["found"]["remarks"]), f"{words}: {report}")


def test_a_physical_volume_with_a_cut_off_end(t):
    root, wide = two_disks(t)
    for size in (16 * MiB - 1, 1200 * KiB):
        os.truncate(t.path / "b.img", size)
        report, unchanged = rescue(t, [t.path / "a.img", t.path / "b.img"])
        remarked(report, "b.img: cut off", f"ends at byte {size},", f"was {16 * MiB} bytes large")
        told = volume(report, "vg/wide")
        equal((told["state"], told["lost"]), ("partial", 16 * MiB - size), "the volume with lost bytes")
        holds(any("vg/wide" in step and "bytes are lost" in step for step in report["next_steps"]), report["next_steps"])
        equal(volume(report, "vg/root")["state"], "active", "the whole volume")
        equal((t.mnt / "vg/root").read_bytes(), root, "root")
        with open(t.mnt / "vg/wide", "rb") as file:
            # The largest free area was taken first: all of b, from 1 MiB on.
            # Pages of which the end is missing cannot be read by way of the page cache.
            there = min(size - MiB, 15 * MiB) // 4096 * 4096
            equal(os.pread(file.fileno(), there, 0), wide[:there], "the part that is there")
            equal(os.pread(file.fileno(), MiB, 15 * MiB), wide[15 * MiB:], "the part on the other disk")
            if there < 15 * MiB:
                lab.raises(5, os.pread, file.fileno(), 4096, there)
        t.umount()
        unchanged()


def test_a_partitioned_disk_with_a_cut_off_end(t):
    lab.need_program("sfdisk")
    for label in ("gpt", "dos"):
        disk = t.file(f"{label}.img", 32 * MiB)
        run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", disk,
            input=f"label: {label}\nstart=2048, size=40960\nstart=43008, size=8192\n")
        definition = t.define(f"volfs: 1\nimages: {{p: {{path: {label}.img, partition: 1}}}}\nvolume_groups:\n  vg:\n"
                              "    physical_volumes: [p]\n    logical_volumes: {root: {size: 16MiB}}\n")
        volfs("create", definition)
        t.mount(definition)
        content = t.random.randbytes(16 * MiB)
        (t.mnt / "vg/root").write_bytes(content)
        t.umount()
        # The end of the disk, with the other copy of the table; then of the partition, too.
        for size in (32 * MiB - 512, 32 * MiB - 17408, 21 * MiB, 12 * MiB + 100):
            os.truncate(disk, size)
            report, unchanged = rescue(t, [disk])
            with open(t.mnt / "vg/root", "rb") as file:
                there = min(16 * MiB, (size - 2 * MiB) // 4096 * 4096)
                equal(os.pread(file.fileno(), there, 0), content[:there], f"{label}, {size} bytes left")
            t.umount()
            unchanged()


def test_what_is_written_beyond_a_cut_can_be_looked_at(t):
    two_disks(t)
    os.truncate(t.path / "b.img", 12 * MiB)
    report, unchanged = rescue(t, [t.path / "a.img", t.path / "b.img"])
    with open(t.mnt / "vg/wide", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"w" * MiB, 13 * MiB)
        os.fsync(file.fileno())
    t.umount()
    shown = json.loads(volfs("overlay", "status", report["overlay"], "--json"))
    holds(any({"offset": 14 * MiB, "length": MiB} in image["ranges"] for image in shown["images"]), shown)
    told = stderr_of(lab.VOLFS, "overlay", "commit", report["overlay"], "--yes")
    holds("b.img: ends at" in told and "cannot be committed" in told, told)
    unchanged()
    volfs("overlay", "discard", report["overlay"], "--yes")


def test_of_two_copies_the_one_written_later_is_taken(t):
    _, images = build(t, "raid5", 3)
    t.umount()
    definition = t.path / "lab.yaml"
    old = t.path / "old.img"
    shutil.copy(images[0], old)
    time.sleep(1.1)  # 0.90 counts seconds, and so does a person
    t.mount(definition)
    put(t, t.mnt / "nas", "late", "written after the copy\n")
    t.umount()
    for order in ([old, *images], [*images, old]):
        report, unchanged = rescue(t, order)
        holds(any("old.img is left out: it is a copy of d0.img, which is taken, for it was written later" in note
                  for array in report["found"]["arrays"] for note in array["notes"]), report)
        equal(run("debugfs", "-R", "cat late", t.mnt / "nas"), "written after the copy\n", "the file")
        t.umount()
        unchanged()
    report, unchanged = rescue(t, [old, *images[1:]])
    holds(any("old.img was updated " in note for array in report["found"]["arrays"] for note in array["notes"]), report)
    t.umount()


def test_members_with_a_cut_off_end(t):
    _, images = build(t, "raid5", 3)
    content = (t.mnt / "nas").read_bytes()
    t.umount()
    # What one lacks the others have, one byte or nearly all of it.
    for size in (16 * MiB - 1, 5 * MiB + 77):
        os.truncate(images[1], size)
        report, unchanged = rescue(t, images)
        remarked(report, "d1.img: cut off", f"ends at byte {size},")
        equal(sha256(t.mnt / "nas"), hashlib.sha256(content).hexdigest(), "the array")
        put(t, t.mnt / "nas", "new", "written into the overlay\n")
        equal(run("debugfs", "-R", "cat new", t.mnt / "nas"), "written into the overlay\n", "a file")
        t.umount()
        unchanged()
    # What two lack is lost, and nothing else.
    os.truncate(images[2], 100)
    report, unchanged = rescue(t, images)
    holds({"image": str(images[2]), "reason": "cut off: 100 bytes are left"} in report["left_out"], report)
    with open(t.mnt / "nas", "rb") as file:
        equal(os.pread(file.fileno(), 4 * MiB, 0), content[:4 * MiB], "the part that is there")
        lab.raises(5, os.pread, file.fileno(), 4 * MiB, 16 * MiB)
    t.umount()
    unchanged()
    os.truncate(images[1], 100)
    shown = run(lab.VOLFS, "mount", "--rescue", *images, t.mnt, status=1)
    for words in ("d2.img: left out: cut off: 100 bytes are left", "slots 1, 2 are missing", "not assembled"):
        holds(words in shown, shown)
    equal(os.stat(images[2]).st_size, 100, "the size of an image")


def test_half_of_a_mirror_with_a_cut_off_end_and_a_group_on_it(t):
    definition = t.define("volfs: 1\nimages:\n  d0: {path: d0.img, size: 32MiB}\n  d1: {path: d1.img, size: 32MiB}\n"
                          "arrays:\n  m1: {level: raid1, devices: [d0, d1], assume_clean: true}\nvolume_groups:\n"
                          "  vg0: {physical_volumes: [m1], logical_volumes: {root: {size: 8MiB}, far: {size: 20MiB}}}\n")
    volfs("create", definition)
    t.mount(definition)
    data = t.random.randbytes(8 * MiB)
    (t.mnt / "vg0/root").open("r+b", buffering=0).write(data)
    t.umount()
    os.truncate(t.path / "d0.img", 20 * MiB)
    report, unchanged = rescue(t, [t.path / "d0.img"])
    holds(not any("superblock" in each for each in report["found"]["remarks"]), report["found"]["remarks"])
    equal((t.mnt / "vg0/root").read_bytes(), data, "the volume that is there")
    volume(report, "vg0/far")
    t.umount()
    unchanged()


def blocks_that_can_be_read(path):
    """By number, their content."""
    good = {}
    with open(path, "rb", buffering=0) as file:
        for number in range(os.fstat(file.fileno()).st_size // 4096):
            try:
                good[number] = os.pread(file.fileno(), 4096, number * 4096)
            except OSError:
                pass
    return good


def test_a_leg_that_reads_with_errors_gives_what_only_it_has(t):
    """Nothing is written over what cannot be read: a member without a log of bad blocks would fail by
    that, with all of it. Each volume is told of by what of it is on the lost ends."""
    definition = t.define("volfs: 1\nimages:\n  a: {path: a.img, size: 24MiB}\n  b: {path: b.img, size: 24MiB}\n"
                          "volume_groups:\n  vg0: {physical_volumes: [a, b], extent_size: 1MiB, logical_volumes: {\n"
                          "    whole: {size: 2MiB, type: raid1, mirrors: 1}, k: {size: 8MiB, type: raid1, mirrors: 1},\n"
                          "    zeroes: {size: 4MiB, stripes: 2}}}\n")
    volfs("create", definition)
    t.mount(definition)
    content = t.random.randbytes(8 * MiB)
    (t.mnt / "vg0/k").open("r+b", buffering=0).write(content)
    (t.mnt / "vg0/zeroes").open("r+b", buffering=0).write(b"z" * 4 * MiB)
    t.umount()
    # The group's data begins at 1 MiB; k's at 5 MiB, behind the metadata of both mirrors.
    os.truncate(t.path / "a.img", 10 * MiB)
    os.truncate(t.path / "b.img", 8 * MiB)
    report, unchanged = rescue(t, [t.path / "a.img", t.path / "b.img"])
    for _ in range(2):
        good = blocks_that_can_be_read(t.mnt / "vg0/k")
        equal(len(good), 5 * MiB // 4096, "blocks that a leg has")
        holds(all(content[number * 4096:][:4096] == block for number, block in good.items()), "their content")
    equal(volume(report, "vg0/whole")["state"], "active", "a volume before the cut")
    equal(volume(report, "vg0/k")["state"], "degraded", "a mirror on both ends")
    holds("the end is missing" in volume(report, "vg0/k")["problem"], report)
    equal((volume(report, "vg0/zeroes")["state"], volume(report, "vg0/zeroes")["lost"]), ("partial", 4 * MiB), "stripes")
    t.umount()
    unchanged()


def test_a_volume_that_gives_errors_is_not_told_of_as_no_member(t):
    definition = t.define("volfs: 1\nimages:\n  p: {path: p.img, size: 32MiB}\nvolume_groups:\n  vg0: {physical_volumes: [p], "
                          "logical_volumes: {root: {size: 8MiB}, full: {type: snapshot, origin: root, size: 4MiB}}}\n")
    volfs("create", definition)
    t.mount(definition)
    (t.mnt / "vg0/root").open("r+b", buffering=0).write(t.random.randbytes(8 * MiB))
    with open(t.mnt / "vg0/full", "rb", buffering=0) as file:
        lab.raises(5, os.pread, file.fileno(), 4096, 4096)
    t.umount()
    said = stderr_of(lab.VOLFS, "mount", t.path / "p.img", t.mnt, status=0)
    t.cleanup.callback(t.take_off, t.mnt)
    holds("superblock" not in said, f"what is said of a snapshot that is invalid: {said}")
    t.umount()
    report, unchanged = rescue(t, [t.path / "p.img"])
    full = volume(report, "vg0/full")
    equal((full["state"], full["problem"]),
          ("failed", "its store was full or could not be written: nothing of the snapshot is left"), "the snapshot")
    holds(not any("ddrescue" in step for step in report["next_steps"]), report["next_steps"])
    t.umount()
    unchanged()


def test_an_origin_is_only_read_where_its_snapshot_is_not_there(t):
    """What is written to it then the snapshot would never know to have been otherwise."""
    text = ("volfs: 1\nimages:\n  a: {path: a.img, size: 16MiB}\n  b: {path: b.img, size: 16MiB}\nvolume_groups:\n"
            "  vg0: {physical_volumes: [a, b], extent_size: 1MiB, logical_volumes: {\n"
            "    root: {size: 4MiB, physical_volumes: [a]}, other: {size: 2MiB, physical_volumes: [a]},\n"
            "    snap: {type: snapshot, origin: root, size: 6MiB, physical_volumes: [b]}}}\n")
    definition = t.define(text)
    volfs("create", definition)
    t.mount(definition)
    content = t.random.randbytes(4 * MiB)
    (t.mnt / "vg0/root").open("r+b", buffering=0).write(content)
    (t.mnt / "vg0/snap").open("r+b", buffering=0).write(b"s" * 4096)
    before = sha256(t.mnt / "vg0/snap")
    t.umount()

    def only_read():
        equal((t.mnt / "vg0/root").read_bytes() == content, True, "the origin's content")
        lab.raises(30, os.open, t.mnt / "vg0/root", os.O_WRONLY)
        (t.mnt / "vg0/other").open("r+b", buffering=0).write(b"o" * 4096)
        t.umount()

    # The device is missing.
    definition.write_text("volfs: 1\nimages: {a: a.img}\n"
                          "volume_groups: {vg0: {physical_volumes: [a], activation: partial}}\n")
    t.mount(definition)
    only_read()
    # It is there, and what it holds of the snapshot cannot be read.
    shutil.copyfile(t.path / "b.img", t.path / "whole.img")
    os.truncate(t.path / "b.img", MiB)
    rescue(t, [t.path / "a.img", t.path / "b.img"])
    only_read()
    os.rename(t.path / "whole.img", t.path / "b.img")
    t.mount(t.define(text))
    equal(sha256(t.mnt / "vg0/snap"), before, "the snapshot")
    (t.mnt / "vg0/root").open("r+b", buffering=0).write(b"r" * 4096)


def test_a_definition_written_by_a_scan_has_what_was_cut_off(t):
    """`pad` by hand: only where nothing is written."""
    t.file("whole.img", 4 * MiB)
    text = "volfs: 1\nimages: {d: {path: whole.img, pad: 8MiB%s}}\nmaps: {m: {table: 0 16384 linear d 0}}\n"
    told = stderr_of(lab.VOLFS, "mount", t.define(text % ""), t.mnt)
    holds("lab.yaml:2:20: " in told and "before the 8388608 that it is taken for" in told, told)
    t.mount(t.define(text % ", readonly: true"), options=["ro"])
    with open(t.mnt / "m", "rb") as file:
        equal(os.pread(file.fileno(), MiB, 3 * MiB), bytes(MiB), "what is there")
        lab.raises(5, os.pread, file.fileno(), 4096, 4 * MiB)
    t.umount()
    t.mount(t.define(text % ""), options=[f"overlay={t.path}/changes"])
    with open(t.mnt / "m", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * MiB, 6 * MiB)
        equal(os.pread(file.fileno(), MiB, 6 * MiB), b"x" * MiB, "what was written")
    t.umount()
    equal(os.stat(t.path / "whole.img").st_size, 4 * MiB, "the file's size")
    holds("either 'pad' or 'size'" in stderr_of(lab.VOLFS, "check", t.define(text % ", size: 1MiB"), status=2), "pad and size")


def test_a_failure_is_told_in_json_and_strange_images_by_name(t):
    odd = t.file("a strange name.img", MiB)
    odd.write_bytes(b"nothing known" * 1000)
    done = subprocess.run([lab.VOLFS, "mount", "--rescue", "--json", odd, t.mnt], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told = json.loads(done.stdout)
    equal(done.returncode, 1, "exit status")
    holds("nothing on the images can be assembled" in told["error"]["message"], told)
    holds("a_strange_name.img: nothing on it is recognised: no superblock, label or signature" in told["found"]["remarks"], told)


def test_scan_tells_what_is_cut_off_and_writes_a_definition_that_check_takes(t):
    two_disks(t)
    os.truncate(t.path / "b.img", 12 * MiB + 77)
    (t.path / "b.img").rename(t.path / "b and c (copy).img")
    images = [t.path / "a.img", t.path / "b and c (copy).img"]
    told = volfs("scan", *images)
    holds(f"b_and_c__copy_.img: cut off: its file ends at byte {12 * MiB + 77}," in told, told)
    holds("volume group 'vg': 2 of 2 physical volumes: a.img b_and_c__copy_.img\n" in told, told)
    holds("volume group 'vg': 1 of 2 physical volumes: a.img; 1 missing\n" in volfs("scan", images[0]), "one missing")
    # One that is not there hides nothing of the others.
    told = subprocess.run([lab.VOLFS, "scan", images[0], t.path / "none.img"], capture_output=True, text=True)
    equal((told.returncode, told.stdout), (1, volfs("scan", images[0])), "beside one that is not there")
    holds("none.img: No such file" in told.stderr, told.stderr)
    found = t.define(volfs("scan", "--yaml", *images), "found.yaml")
    holds("pad: 16MiB" in found.read_text(), found.read_text())
    holds("vg/wide" in volfs("check", found), "the definition is not taken")
    t.mount(found)
    equal((t.mnt / "vg/wide").stat().st_size, 16 * MiB, "size")
    t.umount()


def test_bad_usage_and_nothing_left_behind(t):
    definition = t.define("volfs: 1\n")
    image = t.file("empty.img", MiB)
    before = set(os.listdir("/var/tmp"))
    holds("takes images" in stderr_of(lab.VOLFS, "mount", "--rescue", definition, t.mnt, status=2), "a definition")
    stderr_of(lab.VOLFS, "mount", "--rescue", image, t.mnt, "-o", "ro", status=2)
    stderr_of(lab.VOLFS, "mount", "--rescue", image, t.mnt)
    stderr_of(lab.VOLFS, "mount", "--rescue", t.path / "none.img", t.mnt)
    _, images = build(t, "raid1", 2)
    stderr_of(lab.VOLFS, "mount", "--rescue", *images, t.mnt)  # the images are mounted, and the place is taken
    equal(set(os.listdir("/var/tmp")), before, "left in /var/tmp")


def test_an_overlay_of_ones_own_and_images_twice(t):
    _, images = build(t, "raid1", 2)
    t.umount()
    (t.path / "again.img").symlink_to(images[0])
    shown = volfs("mount", "--rescue", *images, t.path / "again.img", t.mnt, "-o", f"overlay={t.path}/keep")
    t.cleanup.callback(t.take_off, t.mnt)
    holds("again.img: left out: the same file" in shown, shown)
    holds("\033" not in shown, "colours in a pipe")
    put(t, t.mnt / "nas", "kept", "over two mounts\n")
    t.umount()
    volfs("mount", "--rescue", *images, t.mnt, "-o", f"overlay={t.path}/keep")
    equal(run("debugfs", "-R", "cat kept", t.mnt / "nas"), "over two mounts\n", "the file")
    t.umount()


def test_images_that_changed_behind_the_overlay_are_refused(t):
    _, images = build(t, "raid1", 2)
    t.umount()
    keep = f"overlay={t.path}/keep"
    volfs("mount", "--rescue", *images, t.mnt, "-o", keep)
    t.cleanup.callback(t.take_off, t.mnt)
    t.umount()
    with open(images[1], "r+b") as file:
        file.seek(9 * MiB)
        file.write(b"somebody else's")
    told = stderr_of(lab.VOLFS, "mount", "--rescue", *images, t.mnt, "-o", keep)
    holds("changed" in told, told)


def test_who_is_interrupted_gets_no_mount(t):
    """The daemon is not killed by the pipe that nobody reads, and does not stay."""
    _, images = build(t, "raid1", 2)
    t.umount()
    scratch = t.path / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    for moment in range(0, 60, 3):
        command = subprocess.Popen([lab.VOLFS, "mount", "--rescue", *images, t.mnt], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment / 1000)
        command.send_signal(signal.SIGINT)
        if command.wait() == 0:
            t.umount()
            equal(len(os.listdir(scratch)), 1, "overlays of a mount that was used")
            shutil.rmtree(scratch)
            scratch.mkdir()
            continue
        # Either it was told of the mount, and was interrupted in its report; or there is none, in the end.
        lab.wait_until(lambda: not lab.is_mounted(t.mnt) or "nas" in os.listdir(t.mnt), "a mount, or none")
        time.sleep(0.5)
        if lab.is_mounted(t.mnt):
            os.listdir(t.mnt)  # a dead mount would say ENOTCONN
            volfs("umount", t.mnt, status=None)  # it may be going by itself
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(exist_ok=True)
        lab.wait_until(lambda: not lab.is_mounted(t.mnt), "the end of the mount")
        lab.wait_until(lambda: not os.listdir(scratch), "the end of its overlay")


def test_mount_and_umount_in_json(t):
    definition = t.define("volfs: 1\nimages: {d: {path: d.img, size: 1MiB}}\nmaps: {m: {table: 0 2048 linear d 0}}\n")
    volfs("create", definition)
    told = json.loads(volfs("mount", "--json", definition, t.mnt))
    t.cleanup.callback(t.take_off, t.mnt)
    equal(told, {"mountpoint": str(t.mnt), "read_only": False, "overlay": None, "volumes": ["m"], "unavailable": []}, "mount")
    equal(json.loads(volfs("umount", "--json", t.mnt)), {"mountpoint": str(t.mnt), "unmounted": True}, "umount")


if __name__ == "__main__":
    lab.main(globals())
