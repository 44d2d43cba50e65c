# SPDX-License-Identifier: GPL-2.0-or-later
"""What tells a mount to go on with a merge is believed only if origin and store are those of then."""
import json
import os

import lab
from lab import KiB, MiB, equal, holds, stderr_of, volfs, wait_until

SIZE = 8 * MiB
IMAGES = "volfs: 1\nimages: {disk0: disk0.img, disk1: disk1.img}\n"
MAPS = """maps:
  slow: {table: 0 16384 delay disk0 0 0 disk0 0 20, hidden: true}
  data: {table: 0 16384 linear slow 0}
  other: {table: 0 16384 linear disk1 0}
"""


def interrupted(t, snapshots="", make=True):
    """A definition, in whose mount a merge of s into data was begun and killed; what data must show."""
    old = {name: t.random.randbytes(SIZE) for name in ("disk0.img", "disk1.img")}
    for name, data in old.items():
        (t.path / name).write_bytes(data)
    definition = t.define(IMAGES + MAPS + snapshots)
    t.mount(definition)
    if make:
        volfs("snapshot", "create", t.mnt / "s", "--origin", "data", "--chunk-size", "512")
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        for at in range(0, SIZE, 64 * KiB):
            os.pwrite(file.fileno(), b"new" * 100, at)
        os.fsync(file.fileno())
    volfs("snapshot", "merge", t.mnt / "s", "--yes")
    pid = t.pid()
    os.kill(pid, 9)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of a killed daemon")
    volfs("umount", t.mnt)
    return definition, old["disk0.img"]


def files(t):
    return {each.name: each.read_bytes() for each in t.path.iterdir() if each.is_file()}


def refused(t, definition, *words):
    """A mount, writable or not, and a check refuse it with these words, and change nothing."""
    before = files(t)
    for command in (["mount", definition, t.mnt], ["mount", definition, t.mnt, "-o", "ro"]):
        message = stderr_of(lab.VOLFS, *command)
        for word in words:
            holds(word in message, f"{word}: {message}")
    equal({name for name, data in files(t).items() if data != before.get(name)}, set(), "files that changed")


def ends(t, definition, old):
    t.mount(definition)
    holds((t.mnt / "data").read_bytes() == old, "the origin at once")
    volfs("snapshot", "wait", t.mnt / "s", "--timeout", "60")
    t.umount()
    holds((t.path / "disk0.img").read_bytes() == old, "the image")
    equal([name for name in files(t) if "merging" in name], [], "files")


INLINE = "snapshots: {s: {origin: data, cow: {path: s.cow}, chunk_size: 4KiB}}\n"


def test_a_marker_that_does_not_fit_is_refused(t):
    t.file("s.cow", 16 * MiB)
    definition, old = interrupted(t, INLINE, make=False)
    marker = t.path / "s.cow.merging"
    good = marker.read_text()
    for text, word in (("", "not the record of a merge"), ("{}", "not the record of a merge"), (good[:len(good) // 2], "not the record"),
                       (good.replace('"volfs_merge": 1', '"volfs_merge": 2'), "newer version"),
                       (good.replace('"origin_size"', '"size"'), "origin_size"), (good.replace('"first_old"', '"x"'), "first_old")):
        marker.write_text(text)
        refused(t, definition, "s.cow.merging", word, "remove")
    for key, value, word in (("origin", "other", "the origin was other and is data"), ("origin_size", SIZE // 2, "the origin's size was"),
                             ("store_size", 12345, "the store's size was"), ("chunk_size", 512, "the store's chunk size"),
                             ("first_old", 77, "the store's first exception"), ("overlay", "/somewhere", "the overlay was /somewhere"),
                             ("stands_on", ["image disk1.img"], "what the origin lies on was image")):
        marker.write_text(json.dumps({**json.loads(good), key: value}))
        refused(t, definition, "that cannot go on", word, "remove")
    marker.write_text(good)
    # Another store, another origin.
    os.rename(t.path / "s.cow", t.path / "kept")
    t.file("s.cow", 16 * MiB)
    refused(t, definition, "holds no snapshot store")
    os.rename(t.path / "kept", t.path / "s.cow")
    elsewhere = t.define(definition.read_text().replace("delay disk0 0 0 disk0 0", "delay disk1 0 0 disk1 0")
                         .replace("linear disk1", "linear disk0"), "elsewhere.yaml")
    refused(t, elsewhere, "what the origin lies on was image", "disk0.img and is image", "disk1.img")
    # Without the marker both are shown as they are; the snapshot is right.
    os.rename(marker, t.path / "kept")
    t.mount(definition, options=["ro"])
    holds((t.mnt / "s").read_bytes() == old, "the snapshot")
    t.umount()
    os.rename(t.path / "kept", marker)
    ends(t, definition, old)


def test_a_record_that_does_not_fit_is_refused(t):
    definition, old = interrupted(t)
    record = t.path / "s.merging"
    good = record.read_text()
    for key, value, word in (("origin_size", SIZE // 2, "the origin's size was"), ("store_size", 12345, "the store's size was"),
                             ("first_new", 77, "the store's first exception"), ("stands_on", ["uuid x"], "what the origin lies on was uuid x")):
        record.write_text(json.dumps({**json.loads(good), key: value}))
        refused(t, definition, "data: s was being merged into it, and that cannot go on", word, "s.merging")
    record.write_text(good.replace('"chunk_size"', '"size"'))
    refused(t, definition, "s.merging", "chunk_size")
    record.write_text(good)
    (t.path / "notes.merging").write_text("mine")  # which has only the name
    renamed = t.define(definition.read_text().replace("  data:", "  renamed:"), "lab2.yaml")
    os.rename(renamed, definition)
    refused(t, definition, "was being merged into it, and it is not there, but what it lay on is")
    definition.write_text(IMAGES + MAPS)
    # All of it in another folder.
    moved = t.path / "moved"
    moved.mkdir()
    for name in ("disk0.img", "disk1.img", "lab.yaml", "s.cow", "s.cow.merging", "s.merging"):
        os.rename(t.path / name, moved / name)
    t.mount(moved / "lab.yaml")
    holds((t.mnt / "data").read_bytes() == old, "the origin of what was moved")
    volfs("snapshot", "wait", t.mnt / "s", "--timeout", "60")
    t.umount()
    equal(sorted(each.name for each in moved.iterdir()), ["disk0.img", "disk1.img", "lab.yaml"], "files")
    equal((t.path / "notes.merging").read_text(), "mine", "another's file")


def test_a_merge_from_a_store_that_is_a_named_image_goes_on(t):
    named = IMAGES.replace("disk1: disk1.img", "disk1: disk1.img, store: s.cow")
    t.file("s.cow", 16 * MiB)
    old = t.random.randbytes(SIZE)
    for name in ("disk0.img", "disk1.img"):
        (t.path / name).write_bytes(old)
    definition = t.define(named + MAPS + "snapshots: {s: {origin: data, cow: store}}\n")
    for end in ("killed", "ended"):
        t.mount(definition)
        with open(t.mnt / "data", "r+b", buffering=0) as file:
            for at in range(0, SIZE, 64 * KiB):
                os.pwrite(file.fileno(), b"new" * 100, at)
            os.fsync(file.fileno())
        volfs("snapshot", "merge", t.mnt / "s", "--yes")
        if end == "killed":
            pid = t.pid()
            os.kill(pid, 9)
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of a killed daemon")
            volfs("umount", t.mnt)
            ends(t, definition, old)
        else:
            volfs("snapshot", "wait", t.mnt / "s", "--timeout", "60")
            holds(any(each["name"] == "store" for each in t.status()["devices"]), "the named image is gone")
            t.umount()
        holds((t.path / "disk0.img").read_bytes() == old, "the image")


def test_what_a_merge_left_when_it_was_done_goes_at_the_next_mount(t):
    """The daemon was killed between the end of the merge and that of its files."""
    definition, old = interrupted(t)
    record = json.loads((t.path / "s.merging").read_text())
    store = (t.path / "s.cow").read_bytes()
    empty = store[:512] + bytes(len(store) - 512)
    ends(t, definition, old)
    for left in (["s.merging", "s.cow", "s.cow.merging"], ["s.merging", "s.cow"], ["s.merging"]):
        for name, data in (("s.merging", json.dumps({**record, "merged": True}).encode()), ("s.cow", empty), ("s.cow.merging", b"{}")):
            if name in left:
                (t.path / name).write_bytes(data)
        t.mount(definition, options=["ro"])
        t.umount()
        equal(sorted(name for name in files(t) if name.startswith("s.")), sorted(left), "files after a mount that only reads")
        t.mount(definition)
        holds((t.mnt / "data").read_bytes() == old, "the origin")
        t.umount()
        equal(sorted(name for name in files(t) if name.startswith("s.")), [], f"files of {left}")
    # A file of that name that is something else stays.
    (t.path / "s.merging").write_text(json.dumps({**record, "merged": True}))
    (t.path / "s.cow").write_bytes(b"mine")
    t.mount(definition)
    equal(sorted(name for name in files(t) if name.startswith("s.")), ["s.cow"], "files")


if __name__ == "__main__":
    lab.main(globals())
