#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`volfs create` writes what `mdadm --create` writes: every byte of superblocks and bitmaps but
uuids, times, the numbers of device nodes, and the logical block size that newer kernels add."""

import os
import struct

import kernel_lab
from lab import KiB, MiB, Failed, equal, holds, run, stderr_of, volfs

GiB = 1 << 30

# Words of the definition, the same in mdadm's, sizes of the disks; devices beyond the slots are
# spares, 0 is a missing one.
CASES = [
    ("level: raid1", "-l1 -n2", [12 * MiB] * 2),
    ("level: raid1, bitmap: internal", "-l1 -n3 -b internal", [12 * MiB, 0, 16 * MiB]),
    ("level: raid1, bitmap: internal, bitmap_chunk: 64KiB", "-l1 -n2 -b internal --bitmap-chunk=64K",
     [12 * MiB] * 3),
    ("level: raid1, assume_clean: true", "-l1 -n2 --assume-clean", [12 * MiB, 13 * MiB]),
    ("level: raid5", "-l5 -n3", [20 * MiB] * 3),
    ("level: raid5, chunk: 64KiB, layout: right-asymmetric, assume_clean: true",
     "-l5 -n4 -c64 -p ra --assume-clean", [12 * MiB] * 5),
    ("level: raid5, chunk: 4KiB", "-l5 -n3 -c4", [12 * MiB, 0, 12 * MiB]),
    ("level: raid4, bitmap: internal", "-l4 -n3 -b internal", [20 * MiB] * 4),
    ("level: raid6", "-l6 -n4", [20 * MiB] * 4),
    ("level: raid6, layout: ddf-N-continue, chunk: 16KiB", "-l6 -n5 -p ddf-N-continue -c16",
     [12 * MiB] * 4 + [0]),
    ("level: raid10", "-l10 -n4", [20 * MiB] * 4),
    ("level: raid10, layout: f2, chunk: 128KiB, bitmap: internal", "-l10 -n3 -p f2 -c128 -b internal",
     [20 * MiB] * 4),
    ("level: raid10, layout: o2, assume_clean: true, size: 5MiB",
     "-l10 -n5 -p o2 --assume-clean -z 5M", [20 * MiB] * 5),
    ("level: raid0", "-l0 -n3", [20 * MiB] * 3),
    ("level: raid0, chunk: 32KiB", "-l0 -n2 -c32", [12 * MiB, 20 * MiB]),
    # Sparse, so that the sizes at which mdadm keeps more room are reached.
    ("level: raid1, assume_clean: true", "-l1 -n2 --assume-clean", [6 * GiB] * 2),
    ("level: raid5, bitmap: internal, assume_clean: true", "-l5 -n3 -b internal --assume-clean", [20 * GiB] * 3),
    ("level: raid6, assume_clean: true", "-l6 -n4 --assume-clean", [300 * GiB] * 4),
]
ONLY_1 = [
    ("level: raid5, consistency: ppl", "-l5 -n3 --consistency-policy=ppl", [20 * MiB] * 3),
    ("level: raid5, data_offset: 3MiB", "-l5 -n3 --data-offset=3M", [20 * MiB] * 3),
]


def place(version, size):
    return {"0.90": size // 65536 * 65536 - 65536, "1.0": (size - 8192) // 4096 * 4096, "1.1": 0,
            "1.2": 4096}[version]


def cut(data, ranges):
    data = bytearray(data)
    for start, end in ranges:
        data[start:end] = bytes(end - start)
    return bytes(data)


def read(path, offset, length):
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def of_version_1(path, version, size):
    """What is compared, by name."""
    at = place(version, size)
    sb = read(path, at, 4096)
    length = 256 + 2 * struct.unpack_from("<I", sb, 220)[0]
    found = {"superblock": cut(sb[:length], [(16, 32), (64, 72), (168, 184), (192, 200), (216, 220), (224, 228)])}
    features, = struct.unpack_from("<I", sb, 8)
    if features & 1:
        offset, = struct.unpack_from("<i", sb, 96)
        head = read(path, at + 512 * offset, 256)
        sectors, = struct.unpack_from("<Q", head, 40)
        bits = -(-sectors * 512 // struct.unpack_from("<I", head, 52)[0])
        # Linux writes its own size of a raid10 even when it is read-only.
        raid10 = struct.unpack_from("<I", sb, 72)[0] == 10
        found["bitmap"] = cut(head, [(8, 24)] + [(40, 48)] * raid10)
        found["bits"] = read(path, at + 512 * offset + 256, bits // 8)
    if features & 0x400:
        offset, length = struct.unpack_from("<hH", sb, 96)
        log = read(path, at + 512 * offset, 512 * length)
        found["ppl"] = cut(log, [(512, 516), (532, 536)])
    log_size, log_offset = struct.unpack_from("<Hi", sb, 186)
    found["bad blocks"] = read(path, at + 512 * log_offset, 512 * log_size)
    return found


def of_version_0(path, size):
    at = place("0.90", size)
    sb = read(path, at, 4096)
    words = [5, 6, 13, 14, 15, 32, 38]  # uuid, ctime, utime, checksum
    # major and minor of each disk, and of this one
    words += [128 + 32 * i + n for i in range(27) for n in (1, 2)] + [992 + 1, 992 + 2]
    state, = struct.unpack_from("<I", sb, 4 * 33)
    if state & 1:
        words += [41, 42, 43]  # where a resync stood, which means nothing in a clean array
    found = {"superblock": cut(sb, [(4 * w, 4 * w + 4) for w in words])}
    if state >> 8 & 1:
        # Linux writes the events, and its own size of a raid10, even when it is read-only.
        raid10 = struct.unpack_from("<I", sb, 4 * 7)[0] == 10
        found["bitmap"] = cut(read(path, at + 4096, 256), [(8, 40)] + [(40, 48)] * raid10)
    return found


def description(path, version, size):
    return of_version_0(path, size) if version == "0.90" else of_version_1(path, version, size)


def compare(t, version, words, command, sizes, number):
    slots = int(command.split("-n")[1].split()[0])
    ours, theirs, devices = [], [], []
    for i, size in enumerate(sizes):
        if size == 0:
            devices.append("missing")
            continue
        ours.append((t.file(f"v{number}-{i}.img", size), size))
        theirs.append((t.file(f"l{number}-{i}.img", size), size))
        devices.append(f"d{i}")
    images = "".join(f"  d{i}: v{number}-{i}.img\n" for i, size in enumerate(sizes) if size)
    spares = f", spares: [{', '.join(devices[slots:])}]" if len(devices) > slots else ""
    named = "" if version == "0.90" else ", name: x, homehost: h"
    definition = t.define(
        f"volfs: 1\nimages:\n{images}arrays:\n  md0: {{{words}, metadata: '{version}', "
        f"devices: [{', '.join(devices[:slots])}]{spares}{named}}}\n")
    volfs("create", definition)
    holds(volfs("create", definition) == "nothing to do\n", f"{words}: it is made a second time")
    named = "" if version == "0.90" else "--name=x --homehost=h"
    given = iter(str(path) for path, _ in theirs)
    names = " ".join("missing" if size == 0 else f"$(attach {next(given)})" for size in sizes)
    spare = f"-x{len(sizes) - slots}" if len(sizes) > slots else ""
    t.linux.check(f"""
        mdadm --create /dev/md0 --run --readonly {named} -e {version} {command} {spare} {names}
        mdadm --stop --quiet /dev/md0""")
    for (our, size), (their, _) in zip(ours, theirs):
        found, expected = (description(path, version, size) for path in (our, their))
        for name, data in expected.items():
            equal(found.get(name), data, f"{name} of {our.name}, metadata {version}, {words}")
    for path, _ in ours + theirs:
        path.unlink()


def each_case(t, version, cases):
    failed = []
    for number, (words, command, sizes) in enumerate(cases):
        try:
            compare(t, version, words, command, sizes, number)
        except (Failed, AssertionError) as error:
            failed.append(str(error))
    if failed:
        raise Failed("\n".join(failed))


def test_metadata_1_2_is_as_mdadm_writes_it(t):
    each_case(t, "1.2", CASES + ONLY_1)


def test_metadata_1_0_is_as_mdadm_writes_it(t):
    each_case(t, "1.0", CASES)


def test_metadata_1_1_is_as_mdadm_writes_it(t):
    each_case(t, "1.1", CASES[:15:3] + ONLY_1)


def test_metadata_0_90_is_as_mdadm_writes_it(t):
    each_case(t, "0.90", CASES[:13])  # mdadm 4.2 makes no raid0 of 0.90


def test_linux_assembles_and_syncs_what_was_created(t):
    for i in range(7):
        t.file(f"d{i}.img", 16 * MiB)
    definition = t.define("""
volfs: 1
images: {d0: d0.img, d1: d1.img, d2: d2.img, d3: d3.img, d4: d4.img, d5: d5.img, d6: d6.img}
arrays:
  a: {level: raid5, devices: [d0, d1, d2], consistency: ppl}
  b: {level: raid6, devices: [d3, d4, d5, missing], spares: [d6], bitmap: internal}
""")
    volfs("create", definition)
    output = t.linux.check(f"""
        cd {t.path}
        mdadm --assemble --run --quiet /dev/md0 $(attach d0.img d1.img d2.img)
        mdadm --assemble --run --quiet /dev/md1 $(attach d3.img d4.img d5.img d6.img)
        mdadm --wait /dev/md0 /dev/md1 || true
        cat /proc/mdstat
        for array in md0 md1; do
          echo check > /sys/block/$array/md/sync_action; mdadm --wait /dev/$array || true
          cat /sys/block/$array/md/mismatch_cnt
        done""")
    for wanted in ("[3/3] [UUU]", "[4/4] [UUUU]", "\n0\n0\n"):
        holds(wanted in output, f"{wanted!r} is not in\n{output}")


def test_what_holds_something_is_refused(t):
    for i in range(3):
        t.file(f"d{i}.img", 16 * MiB)
    text = """
volfs: 1
images: {d0: d0.img, d1: d1.img, d2: {path: d2.img, size: 16MiB}}
arrays:
  a: {level: raid1, devices: [d0, d1, d2]}
"""
    definition = t.define(text)
    run("mke2fs", "-q", "-t", "ext4", "-L", "precious", t.path / "d1.img")
    message = stderr_of(os.environ["VOLFS"], "create", definition)
    for wanted in ("lab.yaml:5:35: d1 holds ext4 file system, label \"precious\"", "--force overwrites it"):
        holds(wanted in message, f"{wanted!r} is not in {message!r}")
    equal(volfs("create", "--force", "--dry-run", definition),
          "would create raid1 array a of d0, d1, d2: metadata 1.2, 15MiB\n  what is lost: d1: " +
          message[message.index("ext4"):message.index("; --force")] + "\n")
    told = stderr_of(os.environ["VOLFS"], "create", "--force", definition)
    holds("nothing was done" in told and "precious" in told and "--yes" in told, told)
    holds(b"precious" in (t.path / "d1.img").read_bytes(), "overwritten without being asked for")
    volfs("create", "--force", "--yes", definition)
    (t.path / "d1.img").unlink()
    t.file("d1.img", 16 * MiB)
    message = stderr_of(os.environ["VOLFS"], "create", definition)
    holds("d0, d2 already belong to array" in message and "`volfs array add`" in message, message)
    other = t.define(text.replace("raid1", "raid5").replace("a:", "b:"), "other.yaml")
    holds("already belong to array" in stderr_of(os.environ["VOLFS"], "create", other), "taken over")
    # Nothing is left of an array of another version.
    volfs("create", "--force", "--yes", t.define(text.replace("raid1,", "raid1, metadata: '1.0',"), "old.yaml"))
    message = stderr_of(os.environ["VOLFS"], "create", definition)
    holds("which has metadata 1.0; --force makes a new array" in message, message)
    volfs("create", "--force", "--yes", definition)
    equal(t.linux.check(f"mdadm --examine $(attach {t.path}/d0.img) | grep Version").split()[-1], "1.2")
    small = t.define(text.replace("raid1, ", "raid1, size: 1GiB, "), "small.yaml")
    holds("1073741824 are wanted" in stderr_of(os.environ["VOLFS"], "create", "--force", small), "too large")


def test_an_array_on_arrays_is_made_once(t):
    definition = t.define("""
volfs: 1
images:
  d0: {path: d0.img, size: 16MiB}
  d1: {path: d1.img, size: 16MiB}
  d2: {path: d2.img, size: 16MiB}
  d3: {path: d3.img, size: 16MiB}
arrays:
  top: {level: raid0, devices: [left, right], chunk: 64KiB}
  left: {level: raid1, devices: [d0, d1], assume_clean: true}
  right: {level: raid1, devices: [d2, d3], assume_clean: true}
""")
    steps = volfs("create", definition).splitlines()
    equal(len(steps), 7, "steps")
    equal(volfs("create", definition), "nothing to do\n")
    output = t.linux.check(f"""
        cd {t.path}
        mdadm --assemble --run --quiet /dev/md1 $(attach d0.img d1.img)
        mdadm --assemble --run --quiet /dev/md2 $(attach d2.img d3.img)
        mdadm --assemble --run --quiet /dev/md3 /dev/md1 /dev/md2
        blockdev --getsize64 /dev/md3
        mdadm --stop --quiet /dev/md3""")
    t.mount(definition, options=["ro"])
    equal((t.mnt / "top").stat().st_size, int(output.split()[-1]), "size")


if __name__ == "__main__":
    kernel_lab.main(globals())
