# SPDX-License-Identifier: GPL-2.0-or-later
"""What images may be: partitions, ranges, block devices, with and without the page cache; and what
becomes of the volumes when an image fails."""
import errno
import os

import lab
from lab import KiB, MiB, equal, holds, raises, run, stderr_of, volfs

SECTOR = 512


def partition(path, script):
    run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", path, input=script)


def pattern(t, length):
    return t.random.randbytes(length)


def write(path, data, at=0, flags=0):
    fd = os.open(path, os.O_RDWR | flags)
    try:
        equal(os.pwrite(fd, data, at), len(data), f"bytes written to {path}")
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path, length, at=0):
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), length, at)


def states(t):
    return {device["name"]: device["state"] for device in t.status()["devices"]}


def test_one_file_under_two_names(t):
    t.file("disk.img", MiB)
    os.link(t.path / "disk.img", t.path / "hard.img")
    (t.path / "soft.img").symlink_to("disk.img")
    for other in ("hard.img", "soft.img"):
        definition = "volfs: 1\nimages:\n  a: disk.img\n  b: " + other + "\n"
        text = (f"{t.path}/{other}: is, at least in part, what the image 'a' ({t.path}/disk.img) is too: expected a "
                "file of its own, other bytes, or 'readonly: true' for both")
        path = t.define(definition)
        for status, command in ((2, ["check", path]), (1, ["mount", path, t.mnt])):
            found = stderr_of(lab.VOLFS, *command, status=status)
            holds(text in found and found.startswith(f"{path}:4:"), found)
        t.define(definition + "readonly: true\n")
        volfs("check", path)
        t.mount(path)
        t.umount()


def test_partitions_of_gpt_and_mbr(t):
    lab.need_program("sfdisk")
    gpt, mbr = t.file("gpt.img", 16 * MiB), t.file("mbr.img", 16 * MiB)
    partition(gpt, "label: gpt\nstart=2048, size=4096\nstart=8192, size=8192\n")
    partition(mbr, "label: dos\nstart=2048, size=2048, type=83\nstart=8192, size=16384, type=5\n"
                   "start=10240, size=4096, type=83\n")
    t.mount(t.define("""
volfs: 1
images:
  gpt2: {path: gpt.img, partition: 2}
  gpt1: {path: gpt.img, partition: 1}
  mbr5: {path: mbr.img, partition: 5}
maps:
  a: {table: "0 4096 linear gpt1 0"}
  b: {table: "0 8192 linear gpt2 0"}
  c: {table: "0 4096 linear mbr5 0"}
"""))
    tables = {path: path.read_bytes() for path in (gpt, mbr)}
    wrote = {"a": pattern(t, 4096 * SECTOR), "b": pattern(t, 8192 * SECTOR),
             "c": pattern(t, 4096 * SECTOR)}
    for name, data in wrote.items():
        write(t.mnt / name, data)
    t.umount()
    for path, parts in ((gpt, {"a": 2048, "b": 8192}), (mbr, {"c": 10240})):
        expected = bytearray(tables[path])
        for name, start in parts.items():
            at = start * SECTOR
            expected[at:at + len(wrote[name])] = wrote[name]
        equal(path.read_bytes(), bytes(expected), path.name)
    for number, message in ((2, "is an extended partition"), (9, "there is none; found 1, 2, 5")):
        definition = t.define(f"volfs: 1\nimages:\n  d: {{path: mbr.img, partition: {number}}}\n"
                              "maps: {m: {table: 0 8 linear d 0}}\n")
        text = stderr_of(lab.VOLFS, "mount", definition, t.mnt)
        holds(message in text, text)


def test_ranges_and_images_that_bypass_the_page_cache(t):
    image = t.file("disk.img", 8 * MiB)
    t.mount(t.define("""
volfs: 1
images:
  low: {path: disk.img, direct: true, offset: 1MiB, length: 2MiB}
  high: {path: disk.img, direct: true, offset: 3MiB}
maps:
  both: {table: ["0 4096 linear low 0", "4096 10240 linear high 0"]}
"""))
    expected = bytearray(8 * MiB)
    # Of any alignment, over the border of the two, and past the cache of the mount, too.
    for at, length in ((0, 1), (5, 4000), (2 * MiB - 700, 1400), (3 * MiB + 1, 300000),
                       (7 * MiB - 3, 3)):
        data = pattern(t, length)
        write(t.mnt / "both", data, at)
        expected[MiB + at:MiB + at + length] = data
        equal(read(t.mnt / "both", length, at), data, "what was written")
    # By another way than the page cache, the image is what it should be before anything is closed.
    equal(image.read_bytes(), bytes(expected), "the image")
    t.umount()
    for first, second in (("true", "false"), ("false", "true")):
        definition = t.define("volfs: 1\nimages:\n"
                              f"  low: {{path: disk.img, direct: {first}, length: 2MiB}}\n"
                              f"  high: {{path: disk.img, direct: {second}, offset: 3MiB}}\n")
        text = stderr_of(lab.VOLFS, "check", definition, status=2)
        holds("expected the same 'direct' for all images of a file" in text, text)


def test_block_devices(t):
    lab.need_loop()
    lab.need_program("sfdisk")
    images = [t.file(f"disk{i}.img", 8 * MiB) for i in range(2)]
    partition(images[1], "label: gpt\nstart=2048, size=8192\n")
    devices = [t.loop(path) for path in images]
    definition = t.define(f"""
volfs: 1
images:
  whole: {{path: {devices[0]}, direct: true}}
  part: {{path: {devices[1]}, partition: 1}}
maps:
  data: {{table: "0 16384 striped 2 16 whole 0 part 0"}}
""".replace("0 16384 striped", "0 8192 striped"))
    t.mount(definition)
    data = pattern(t, 4 * MiB)
    write(t.mnt / "data", data)
    equal(read(t.mnt / "data", len(data)), data, "the volume")
    # The kernel gives the disk to nobody else, and a second volfs neither.
    raises(errno.EBUSY, os.open, devices[0], os.O_RDWR | os.O_EXCL)
    second = t.path / "second"
    second.mkdir()
    text = stderr_of(lab.VOLFS, "mount", definition, second)
    holds(f"{devices[0]}: in use" in text, text)
    where = volfs("where", t.mnt / "data", "8192", "8192").split()
    equal(where[:3], ["8192", "8192", "image"], "where")
    t.umount()
    for device in devices:
        run("blockdev", "--flushbufs", device)
    chunks = [data[at:at + 8192] for at in range(0, len(data), 8192)]
    equal(images[0].read_bytes()[:2 * MiB], b"".join(chunks[0::2]), "the first disk")
    equal(images[1].read_bytes()[MiB:3 * MiB], b"".join(chunks[1::2]), "the partition")
    # What a mount holds is not written to behind its back: mounted read-write is refused.
    run("mkfs.ext4", "-q", devices[0])
    t.mount_fs(devices[0], "busy")
    text = stderr_of(lab.VOLFS, "mount", definition, t.mnt)
    holds(f"{devices[0]}: in use: mounted" in text, text)


def test_an_image_that_is_removed_serves_on(t):
    definition = t.define("volfs: 1\nimages: {d: {path: d.img, size: 4MiB}}\n"
                          "maps: {m: {table: 0 8192 linear d 0}}\n")
    volfs("create", definition)
    t.mount(definition)
    write(t.mnt / "m", b"before")
    (t.path / "d.img").unlink()
    write(t.mnt / "m", b"after", 4096)
    equal(read(t.mnt / "m", 6), b"before", "what was written before")
    equal(read(t.mnt / "m", 5, 4096), b"after", "what was written after")
    t.umount()


def test_a_bad_block_of_an_image_is_an_error_there_only(t):
    """The image is a volume of another mount, whose target dust gives the error."""
    below = t.path / "below"
    below.mkdir()
    lower = t.define("volfs: 1\nimages: {d: {path: d.img, size: 8MiB}}\nmaps:\n"
                     "  bad: {table: 0 8192 dust d 0 4096}\n"
                     "  good: {table: 0 8192 linear d 8192}\n", "lower.yaml")
    volfs("create", lower)
    t.mount(lower, mnt=below)
    volfs("map", "message", below / "bad", "0", "addbadblock", "16")
    upper = t.define("volfs: 1\nimages:\n  bad: {path: below/bad, direct: true}\n"
                     "  good: {path: below/good}\nmaps:\n"
                     "  one: {table: 0 8192 linear bad 0}\n"
                     "  both: {table: 0 16384 striped 2 16 bad 0 good 0}\n", "upper.yaml")
    t.mount(upper)
    write(t.mnt / "both", pattern(t, 8 * MiB))
    whole = read(t.mnt / "both", 8 * MiB)
    volfs("map", "message", below / "bad", "0", "enable")
    fd = os.open(t.mnt / "both", os.O_RDWR | os.O_DIRECT)
    try:
        import mmap
        page = mmap.mmap(-1, 4096)
        # Block 16 of the lower map is 64 KiB into the first disk: twice as far in the stripes.
        raises(errno.EIO, os.preadv, fd, [page], 128 * KiB)
        for at in (128 * KiB - 4096, 128 * KiB + 4096, 0, 8 * MiB - 4096):
            equal(os.preadv(fd, [page], at), 4096, "a read beside it")
            equal(page[:], whole[at:at + 4096], "what stands beside it")
        os.fsync(fd)
        volfs("map", "message", below / "bad", "0", "disable")
        equal(os.preadv(fd, [page], 128 * KiB), 4096, "a read when the disk is well again")
        equal(page[:], whole[128 * KiB:128 * KiB + 4096], "what it gives")
    finally:
        os.close(fd)
    t.umount()


def test_states_of_what_stands_on_a_snapshot_that_ran_full(t):
    definition = t.define("""
volfs: 1
images:
  d: {path: d.img, size: 8MiB}
  cow: {path: cow.img, size: 64KiB}
snapshots:
  s: {origin: d, cow: cow, chunk_size: 4KiB}
maps:
  alone: {table: "0 8192 linear s 0"}
  part: {table: ["0 8192 linear s 8192", "8192 8192 linear e 0"]}
  well: {table: "0 8192 linear e 8192"}
""".replace("snapshots:", "  e: {path: e.img, size: 8MiB}\nsnapshots:"))
    volfs("create", definition)
    t.mount(definition)
    equal(set(states(t).values()), {"active"}, "states")
    fd = os.open(t.mnt / "s", os.O_RDWR | os.O_SYNC)
    try:
        raises(errno.EIO, lambda: [os.pwrite(fd, b"x" * 4096, i * 4096) for i in range(64)])
    finally:
        os.close(fd)
    found = states(t)
    equal({name: found[name] for name in ("s", "alone", "part", "well", "d", "e")},
          {"s": "failed", "alone": "failed", "part": "partial", "well": "active", "d": "active",
           "e": "active"}, "states")
    holds("partial" in volfs("tree", t.mnt), "the tree")


lab.main(globals())
