# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of the volumes of a mount: those of a definition, and those taken while it is in use."""
import concurrent.futures
import ctypes
import errno
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))

import lab
import volfs as client
from lab import KiB, MiB, equal, holds, raises, run, sha256, stderr_of, volfs, wait_until

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, offset, length) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def device(t, name):
    return next(each for each in t.status()["devices"] if each["name"] == name)


def status_words(t, name):
    """What dmsetup status says of a snapshot after the type."""
    return device(t, name)["map"]["status"].split()[3:]


def test_a_hole_is_refused_where_it_would_only_copy(t):
    """As by Linux, whose snapshot-origin takes no discards, and a snapshot only with discard_zeroes_cow."""
    (t.path / "disk.img").write_bytes(b"o" * 8 * MiB)
    for name in ("plain", "zeroing"):
        t.file(f"{name}.cow", 16 * MiB)
    t.mount(t.define("""
volfs: 1
images: {disk: disk.img}
maps: {data: {table: 0 16384 linear disk 0}, top: {table: 0 16384 linear data 0}}
snapshots:
  plain: {origin: data, cow: {path: plain.cow, size: 16MiB}}
  zeroing: {origin: data, cow: {path: zeroing.cow, size: 16MiB}, discard_zeroes_cow: true}
"""))
    before = status_words(t, "plain")
    for name in ("data", "top", "plain"):
        with open(t.mnt / name, "r+b", buffering=0) as file:
            raises(errno.EOPNOTSUPP, fallocate, file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 4 * MiB)
    equal(status_words(t, "plain"), before, "what a refused hole costs a snapshot")
    # Zeros that are asked for are written, and copied before as any write is.
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        fallocate(file.fileno(), ZERO_RANGE, 64 * KiB, 64 * KiB)
        equal(os.pread(file.fileno(), 256 * KiB, 0), b"o" * 64 * KiB + bytes(64 * KiB) + b"o" * 128 * KiB, "the origin")
    with open(t.mnt / "zeroing", "r+b", buffering=0) as file:
        equal(file.read(256 * KiB), b"o" * 256 * KiB, "the snapshot")
        fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 128 * KiB)
        equal(os.pread(file.fileno(), 256 * KiB, 0), bytes(128 * KiB) + b"o" * 128 * KiB, "a hole in a snapshot")


DEFINITION = """
volfs: 1
images: {disk0: disk0.img, disk1: disk1.img}
maps:
  data: {table: "0 65536 linear disk0 0\\n65536 65536 linear disk1 0"}
  top: {table: 0 65536 linear data 65536}
"""
SIZE = 64 * MiB


def live(t):
    """A mount of `data`, over whose second half there is `top`; returns its bytes."""
    content = t.random.randbytes(SIZE)
    (t.path / "disk0.img").write_bytes(content[:SIZE // 2])
    (t.path / "disk1.img").write_bytes(content[SIZE // 2:])
    t.mount(t.define(DEFINITION))
    return bytearray(content)


def snapshot(command, path, *arguments, **options):
    return volfs("snapshot", command, path, *arguments, **options)


def content_of(path):
    return path.read_bytes()


def test_snapshots_that_were_never_written_are_shown_read_only_too(t):
    (t.path / "disk.img").write_bytes(t.random.randbytes(MiB))
    definition = t.define("""
volfs: 1
images: {disk: disk.img}
maps: {data: {table: 0 2048 linear disk 0}, over: {table: 0 2048 linear first 0}}
snapshots:
  first: {origin: data, cow: {path: first.cow, size: 4MiB}}
  second: {origin: over, cow: {path: second.cow, size: 4MiB}}
""")
    volfs("create", definition)
    t.mount(definition, options=["ro"])
    for name in ("data", "first", "over", "second"):
        equal(sha256(t.mnt / name), sha256(t.path / "disk.img"), name)
    t.umount()
    holds(not any((t.path / "first.cow").read_bytes()), "nothing was written")
    t.mount(definition)
    (t.mnt / "over").write_bytes(bytes(MiB))
    equal(sha256(t.mnt / "data"), sha256(t.path / "disk.img"), "below a snapshot that was written")
    equal(sha256(t.mnt / "second"), sha256(t.path / "disk.img"), "a snapshot of a map over a snapshot")
    holds(not any((t.mnt / "first").read_bytes()), "the snapshot that the map is over")
    t.umount()
    at_fault = t.define(definition.read_text().replace("origin: over", "origin: first"), "twice.yaml")
    said = stderr_of(lab.VOLFS, "mount", at_fault, t.mnt, status=1)
    holds(":7:20: first: is a snapshot itself: expected a map over it" in said, said)


def test_a_snapshot_comes_and_goes_under_open_files(t):
    content = live(t)
    before = t.mnt / "before"
    table = device(t, "data")["map"]["table"]
    with open(t.mnt / "data", "r+b", buffering=0) as data, open(t.mnt / "top", "r+b", buffering=0) as top:
        holds(not before.exists(), "a snapshot that was not taken yet exists")
        snapshot("create", before, "--origin", "data", "--chunk-size", "4KiB")
        equal(before.stat().st_size, SIZE, "size of the snapshot, at once")
        equal(device(t, "data")["map"]["table"], "0 131072 snapshot-origin data-real\n", "table of the origin")
        equal(device(t, "data-real")["map"]["table"], table, "table below")
        old = bytes(content)
        # By the files that were open before, and through the map that stands on the origin.
        for file, at, base in ((data, 5000, 0), (top, 5000, SIZE // 2)):
            block = t.random.randbytes(100000)
            os.pwrite(file.fileno(), block, at)
            os.fsync(file.fileno())
            content[base + at:base + at + len(block)] = block
        holds(content_of(t.mnt / "data") == content, "the origin after writes")
        holds(content_of(before) == old, "the snapshot after writes to the origin")
        # A second one, of now; and the snapshots can be written to.
        snapshot("create", t.mnt / "second", "--origin", t.mnt / "data", "--cow", t.path / "second.cow", "--size", "32MiB")
        with open(before, "r+b", buffering=0) as file:
            file.write(b"changed")
        holds(content_of(t.mnt / "second") == content, "the second snapshot")
        holds(content_of(t.mnt / "data") == content, "the origin")
        state = json.loads(snapshot("status", before, "--json"))
        equal((state["state"], state["origin"]), ("active", "data"), "status")
        holds(state["used"] > state["metadata"] > 0, f"status {state}")
        # What stands in the way is named.
        with open(before, "rb"):
            holds("before: in use: 1 open file" in stderr_of(lab.VOLFS, "snapshot", "remove", before, "--yes"), "message")
        holds("data: is open" in stderr_of(lab.VOLFS, "snapshot", "merge", before, "--yes"), "message")
        holds("--yes" in stderr_of(lab.VOLFS, "snapshot", "remove", before), "asked in a pipe")
        for name, *arguments in (("before", "--origin", "data"), ("x", "--origin", "nothing"), ("x", "--origin", "second"),
                                 ("x", "--origin", "data-real"), ("x", "--origin", "data", "--chunk-size", "5KiB"),
                                 ("x", "--origin", "data", "--cow", t.path / "second.cow"),
                                 ("x", "--origin", "data", "--cow", t.path / "no/folder"), ("a b", "--origin", "data")):
            holds(stderr_of(lab.VOLFS, "snapshot", "create", t.mnt / name, *arguments), "a message")
        equal(sorted(os.listdir(t.mnt)), [".volfs", "before", "data", "second", "top"], "names")
        equal(sorted(each.name for each in t.path.glob("*.cow")), ["before.cow", "second.cow"], "files")
        # When all have gone the origin is as it was, and still open.
        snapshot("remove", before, "--yes")
        snapshot("remove", t.mnt / "second", "--yes")
        equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "top"], "names")
        equal(device(t, "data")["map"]["table"], table, "table of the origin")
        equal(list(t.path.glob("*.cow")), [], "files")
        os.pwrite(data.fileno(), b"end", 0)
        content[:3] = b"end"
        holds(content_of(t.mnt / "data") == content, "the origin at last")
    t.umount()
    holds((t.path / "disk0.img").read_bytes() + (t.path / "disk1.img").read_bytes() == content, "the images")


def against(t, rounds, *requests):
    """Takes and drops a snapshot of data time and again, while another thread makes the requests."""
    mount, over = client.Mount(t.mnt), threading.Event()

    def change():
        other = client.Mount(t.mnt)
        while not over.is_set():
            for name, keys in requests:
                try:
                    other.request(name, **keys)
                except client.Error:
                    pass  # it may have come between

    changer = threading.Thread(target=change, daemon=True)
    changer.start()
    taken = 0
    for _ in range(rounds):
        for name, keys in (("snapshot.create", {"origin": "data"}), ("snapshot.remove", {})):
            try:
                mount.request(name, snapshot="s", **keys)
                taken += name == "snapshot.create"
            except client.Error as error:
                holds(error.code in ("EBUSY", "ENOENT", "EEXIST"), f"{name}: {error}")
    over.set()
    changer.join(60)
    holds(not changer.is_alive(), "the other's request never ends")
    return taken


def test_a_snapshot_takes_turns_with_other_changes_of_its_origin(t):
    content = live(t)
    table = device(t, "data")["map"]["table"]
    mount = client.Mount(t.mnt)
    suspending = [("map.suspend", {"map": "data"}), ("map.load", {"map": "data", "table": table}),
                  ("map.resume", {"map": "data"})]
    holds(against(t, 100, ("map.resume", {"map": "data"})) == 100, "a resume kept snapshots from being taken")
    against(t, 100, *suspending)
    against(t, 100, ("map.suspend", {"map": "data-real"}), ("map.resume", {"map": "data-real"}))
    # Whatever came between, the next snapshot is as any other, and leaves nothing.
    mount.request("map.resume", map="data")
    for request in (("snapshot.remove", {}), ("snapshot.create", {"origin": "data"}), ("snapshot.remove", {})):
        try:
            mount.request(request[0], snapshot="s", **request[1])
        except client.Error as error:
            equal((request, error.code), (("snapshot.remove", {}), "ENOENT"), str(error))
    names = [each["name"] for each in t.status()["devices"]]
    holds("data-real" not in names and "s-cow" not in names, f"left behind: {names}")
    equal(device(t, "data")["map"]["table"], table, "the table at the end")
    equal(content_of(t.mnt / "data"), bytes(content), "the content at the end")


def test_a_suspended_origin_keeps_its_snapshot(t):
    live(t)
    mount = client.Mount(t.mnt)
    table = device(t, "data")["map"]["table"]
    for below in ("data", "data-real"):
        snapshot("create", t.mnt / "s", "--origin", t.mnt / "data")
        mount.request("map.suspend", map=below)
        message = stderr_of(lab.VOLFS, "snapshot", "remove", "--yes", t.mnt / "s")
        holds("suspended" in message, message)
        equal(device(t, "s")["map"]["table"].split()[2], "snapshot", "what is kept")
        holds((t.mnt / "s").exists(), "the snapshot is not shown any more")
        mount.request("map.resume", map=below)
        snapshot("remove", t.mnt / "s", "--yes")
        equal(device(t, "data")["map"]["table"], table, "the table that the origin gets back")


def test_a_chunk_size_that_cannot_be_is_refused(t):
    live(t)
    for size in ("1", "8", "15", "17", "256", "513", "5000", "1TiB"):
        message = stderr_of(lab.VOLFS, "snapshot", "create", t.mnt / "s", "--origin", "data", "--chunk-size", size)
        holds("chunk size" in message and "expected a power of two from 512" in message, f"{size}: {message}")
    equal(list(t.path.glob("*.cow")), [], "files")
    snapshot("create", t.mnt / "s", "--origin", "data", "--chunk-size", "512")


def test_what_a_removed_snapshot_leaves_is_no_snapshot(t):
    live(t)
    t.file("kept.cow", 16 * MiB)
    snapshot("create", t.mnt / "s", "--origin", "data", "--cow", t.path / "kept.cow")
    snapshot("remove", t.mnt / "s", "--yes")
    with open(t.path / "kept.cow", "rb") as file:
        equal(file.read(8), b"SnAp" + bytes(4), "the header: marked invalid")


def write_at_once(path, blocks):
    """Writes {offset: bytes}, in pages, many at a time: they share the flushes that each of them waits for."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)

    def write(at):
        with lab.mmap_of(len(blocks[at])) as page:
            page.write(blocks[at])
            equal(os.pwrite(fd, page, at), len(page), f"written at {at}")

    try:
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            list(pool.map(write, blocks))
        os.fsync(fd)
    finally:
        os.close(fd)


def fill(t, path, content, count):
    """Overwrites random blocks, so that a snapshot keeps them."""
    blocks = {at * 4096: t.random.randbytes(4096) for at in t.random.sample(range(SIZE // 4096), count)}
    write_at_once(path, blocks)
    for at, block in blocks.items():
        content[at:at + 4096] = block


def test_a_merge_makes_the_origin_what_the_snapshot_showed(t):
    content = live(t)
    old = bytes(content)
    table = device(t, "data")["map"]["table"]
    snapshot("create", t.mnt / "before", "--origin", "data", "--chunk-size", "4KiB")
    fill(t, t.mnt / "data", content, 3000)
    snapshot("create", t.mnt / "later", "--origin", "data", "--chunk-size", "16KiB")
    snapshot("merge", t.mnt / "before", "--yes")
    holds(not (t.mnt / "before").exists(), "the merged snapshot is still there")
    holds(content_of(t.mnt / "data") == old, "the origin, at once")
    snapshot("wait", t.mnt / "before", "--timeout", "120")
    equal(json.loads(snapshot("status", t.mnt / "before", "--json"))["state"], "merged", "state")
    holds(content_of(t.mnt / "data") == old, "the origin after the merge")
    holds(content_of(t.mnt / "later") == content, "another snapshot after the merge")
    holds(not (t.path / "before.cow").exists() and not (t.path / "before.cow.merging").exists(), "files")
    snapshot("remove", t.mnt / "later", "--yes")
    equal(device(t, "data")["map"]["table"], table, "table of the origin")
    t.umount()
    holds((t.path / "disk0.img").read_bytes() + (t.path / "disk1.img").read_bytes() == old, "the images")


# `later` takes a moment to be opened: a merge must not go on before.
SLOW = """
volfs: 1
images: {disk0: disk0.img, later-file: later.cow}
maps:
  later-store: {table: 0 131072 delay later-file 0 50 later-file 0 0, hidden: true}
  slow: {table: 0 65536 delay disk0 0 0 disk0 0 6, hidden: true}
  data: {table: 0 65536 linear slow 0}
snapshots:
  before: {origin: data, cow: {path: before.cow}, chunk_size: 4KiB}
  later: {origin: data, cow: later-store}
"""


def test_a_merge_goes_on_at_the_next_mount(t):
    """After the end of a mount, and after a killed daemon."""
    old = t.random.randbytes(32 * MiB)
    (t.path / "disk0.img").write_bytes(old)
    for name in ("before.cow", "later.cow"):
        t.file(name, 64 * MiB)
    fast = t.define(SLOW.replace("0 65536 delay disk0 0 0 disk0 0 6", "0 65536 linear disk0 0"), "fast.yaml")
    t.mount(fast)
    write_at_once(t.mnt / "data", {at: t.random.randbytes(4 * KiB) for at in range(0, 32 * MiB, 8 * KiB)})
    t.umount()
    with open(t.path / "later.cow", "r+b") as file:  # anew: of what there is now
        file.write(bytes(1 * MiB))
    changed = (t.path / "disk0.img").read_bytes()
    slow = t.define(SLOW, "slow.yaml")

    def used():
        return int(device(t, "data")["map"]["status"].split()[3].split("/")[0])

    t.mount(slow)
    holds("data: has the snapshot" in stderr_of(lab.VOLFS, "map", "remove", t.mnt / "data"), "message")
    snapshot("merge", t.mnt / "before", "--yes")
    for command in (["snapshot", "create", t.mnt / "x", "--origin", "data"], ["map", "remove", t.mnt / "data"],
                    ["snapshot", "merge", t.mnt / "before", "--yes"], ["snapshot", "wait", t.mnt / "before", "--timeout", "0.1"]):
        message = stderr_of(lab.VOLFS, *command)
        holds("merge" in message or "no such device" in message, message)
    equal(list(t.path.glob("x.cow")), [], "files")
    left = []
    for end in (t.umount, lambda: kill(t)):
        start = used()
        wait_until(lambda: used() < start, "the merge to come on", 120)
        left.append(used())
        holds(left[-1] > 16, "the merge ended too early for the test")
        end()
        # A read-only mount shows what it will be, and changes nothing.
        sums = [sha256(t.path / name) for name in ("disk0.img", "before.cow")]
        t.mount(slow, options=["ro"])
        equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "later"], "names")
        holds(content_of(t.mnt / "data") == old, "the origin of a mount that only reads")
        holds(content_of(t.mnt / "later") == changed, "another snapshot in a mount that only reads")
        t.umount()
        equal([sha256(t.path / name) for name in ("disk0.img", "before.cow")], sums, "the files")
        t.mount(slow)
        holds(content_of(t.mnt / "data") == old, "the origin of a mount that goes on")
        holds(content_of(t.mnt / "later") == changed, "another snapshot in a mount that goes on")
    t.umount()
    t.mount(fast)
    snapshot("wait", t.mnt / "before", "--timeout", "120")
    holds(content_of(t.mnt / "later") == changed, "another snapshot after the merge")
    t.umount()
    holds((t.path / "disk0.img").read_bytes() == old, "the image")
    # The store is empty now, and a snapshot of what there is.
    t.mount(fast)
    holds(content_of(t.mnt / "before") == old and content_of(t.mnt / "data") == old, "both")


def test_an_overflowed_snapshot_is_merged_to_its_end(t):
    old = t.random.randbytes(4 * MiB)
    (t.path / "d.img").write_bytes(old)
    t.mount(t.define("volfs: 1\nimages: {d: d.img}\nmaps: {m: {table: 0 8192 linear d 0}}\n"))
    snapshot("create", t.mnt / "s", "--origin", "m", "--size", "256KiB", "--chunk-size", "4KiB", "--overflow")
    with open(t.mnt / "s", "r+b", buffering=0) as file:
        lab.raises(errno.EIO, lambda: [os.pwrite(file.fileno(), b"s" * 4 * KiB, at) and os.fsync(file.fileno())
                                       for at in range(0, MiB, 4 * KiB)])
    equal(json.loads(snapshot("status", t.mnt / "s", "--json"))["state"], "overflow", "state")
    shown = (t.mnt / "s").read_bytes()
    holds(shown != old, "nothing was written")
    snapshot("merge", t.mnt / "s", "--yes")
    snapshot("wait", t.mnt / "s", "--timeout", "60")
    holds((t.mnt / "m").read_bytes() == shown, "the origin")
    equal(device(t, "m")["map"]["table"].split()[2], "linear", "the table")
    snapshot("create", t.mnt / "next", "--origin", "m")


def test_two_merges_into_one_origin_take_turns(t):
    for name, size in (("o.img", 8 * MiB), ("c1.img", 12 * MiB), ("c2.img", 12 * MiB)):
        t.file(name, size)
    t.mount(t.define("volfs: 1\nimages: {o: o.img, c1: c1.img, c2: c2.img}\nmaps:\n"
                     "  slow: {table: 0 16384 delay o 0 20}\n"
                     "  s1: {table: 0 16384 snapshot slow c1 P 8}\n  s2: {table: 0 16384 snapshot slow c2 P 8}\n"))
    for number, name in ((b"1", "s1"), (b"2", "s2")):
        (t.mnt / name).open("r+b", buffering=0).write(number * 4 * MiB)
    for name in ("s1", "s2"):
        volfs("map", "suspend", t.mnt / name)
    volfs("map", "create", t.mnt / "m1", "--table", "0 16384 snapshot-merge slow c1 P 8")
    told = stderr_of(lab.VOLFS, "map", "create", t.mnt / "m2", "--table", "0 16384 snapshot-merge slow c2 P 8")
    holds("another snapshot of the origin is being merged" in told, told)
    lab.wait_until(lambda: status_words(t, "m1")[-1] == status_words(t, "m1")[0].split("/")[0], "the end of the merge")
    holds((t.mnt / "m1").read_bytes() == b"1" * 4 * MiB + bytes(4 * MiB), "the origin")
    volfs("map", "remove", t.mnt / "s1")
    volfs("map", "remove", t.mnt / "m1")
    volfs("map", "create", t.mnt / "m2", "--table", "0 16384 snapshot-merge slow c2 P 8")
    lab.wait_until(lambda: status_words(t, "m2")[-1] == status_words(t, "m2")[0].split("/")[0], "the end of the other")
    holds((t.mnt / "m2").read_bytes() == b"2" * 4 * MiB + bytes(4 * MiB), "the origin after both")
    volfs("map", "remove", t.mnt / "s2")


def test_a_merge_made_by_hand_is_removed_when_nothing_is_left(t):
    for name, size in (("o.img", 8 * MiB), ("c.img", 4 * MiB)):
        t.file(name, size)
    t.mount(t.define("volfs: 1\nimages: {o: o.img, c: c.img}\n"))
    volfs("map", "create", t.mnt / "t", "--table", "0 16384 snapshot-merge o c P 8")
    equal(status_words(t, "t")[-1], "16", "metadata")
    volfs("map", "remove", t.mnt / "t")
    holds("t" not in os.listdir(t.mnt), "it is there")


def test_snapshots_that_fill_up_cost_nobody_else(t):
    """As Linux's dm-snapshot: what a write to the snapshot, and one to the origin, make of a full P and a full PO."""
    old = t.random.randbytes(32 * MiB)
    for name in ("disk0.img", "disk1.img"):
        (t.path / name).write_bytes(old)
    t.mount(t.define("volfs: 1\nimages: {disk0: disk0.img, disk1: disk1.img}\n"
                     "maps: {data: {table: 0 65536 linear disk0 0}, other: {table: 0 65536 linear disk1 0}}\n"))
    chunk = 4 * KiB
    now, other = bytearray(old), bytearray(old)
    contents = {"data": now, "other": other}

    def write(name, at, count, errors=()):
        """Chunk by chunk to the disk; how many got there."""
        block = t.random.randbytes(chunk)
        fd, good = os.open(t.mnt / name, os.O_RDWR | os.O_DSYNC), 0
        for i in range(count):
            try:
                os.pwrite(fd, block, at + i * chunk)
                good += 1
            except OSError as error:
                holds(error.errno in errors, f"{name}: errno {error.errno}")
                break
            if name in contents:
                contents[name][at + i * chunk:at + (i + 1) * chunk] = block
        os.close(fd)
        return good

    def small(name, *arguments):
        snapshot("create", t.mnt / name, "--origin", "data", "--size", "64KiB", "--chunk-size", "4KiB", *arguments)

    def state(name):
        return json.loads(snapshot("status", t.mnt / name, "--json"))["state"]

    def check_lost(name):
        equal(status_words(t, name), ["Invalid"], f"{name}: status")
        equal(state(name), "invalid", f"{name}: state")
        holds(write("data", 20 * MiB, 3) == 3 and write("other", 1 * MiB, 3) == 3, "the others' writes")
        holds(content_of(t.mnt / "data") == now, f"{name}: the origin")
        holds(content_of(t.mnt / "other") == other, f"{name}: another volume")

    snapshot("create", t.mnt / "roomy", "--origin", "data")
    # 14 chunks of data: header and area go off. Written to themselves.
    for name, arguments, word, state_word in (("p", [], "Invalid", "invalid"), ("po", ["--overflow"], "Overflow", "overflow")):
        small(name, *arguments)
        equal(device(t, name)["map"]["table"].split()[5], name.upper(), "store")
        kept = bytearray(now)
        equal(write(name, 0, 20, (errno.EIO,)), 14, f"{name}: chunks that fit")
        equal(write(name, 0, 1, (errno.EIO,)), 0, f"{name}: one chunk more")
        equal(status_words(t, name), [word], f"{name}: status")
        equal(state(name), state_word, f"{name}: state")
        if name == "po":
            holds(content_of(t.mnt / name)[14 * chunk:] == kept[14 * chunk:], "what a full PO shows of the origin")
            write("data", 20 * MiB, 1)  # which needs room, and there is none
        check_lost(name)
        raises(errno.EIO, (t.mnt / name).read_bytes)
        snapshot("remove", t.mnt / name, "--yes")
    # Filled by the origin alone: both become invalid, and the origin does not notice.
    small("p")
    small("po", "--overflow")
    equal(write("data", 8 * MiB, 14), 14, "origin")
    equal([status_words(t, name) for name in ("p", "po")], [["128/128", "16"]] * 2, "full")
    equal(write("data", 9 * MiB, 1), 1, "origin")
    for name in ("p", "po"):
        check_lost(name)
        holds("invalid" in stderr_of(lab.VOLFS, "snapshot", "merge", t.mnt / name, "--yes"), "message")
    holds(content_of(t.mnt / "roomy") == old, "a snapshot with room")


MERGE_FIRST = """
volfs: 1
images: {disk0: disk0.img, before: before.cow, later: later.cow}
maps:
  merged: {table: 0 65536 snapshot-merge disk0 before P 8}
  slow: {table: 0 131072 delay later 0 20, hidden: true}
  later: {table: 0 65536 snapshot disk0 slow P 32}
"""


def test_no_merge_of_a_map_begins_before_all_snapshots_are_there(t):
    """Wherever it stands in the definition: the others miss no copies, and a mount that fails changes nothing."""
    old = t.random.randbytes(32 * MiB)
    (t.path / "disk0.img").write_bytes(old)
    for name in ("before.cow", "later.cow"):
        t.file(name, 64 * MiB)
    images = MERGE_FIRST[:MERGE_FIRST.index("maps:")].replace("later:", "later-store:")
    only = t.define(images, "only.yaml")
    merge_first = MERGE_FIRST.replace("later: later.cow", "later-store: later.cow").replace("delay later", "delay later-store")
    t.mount(t.define(images + "maps: {s: {table: 0 65536 snapshot disk0 before P 8}}\n", "snapshot.yaml"))
    write_at_once(t.mnt / "s", {at: t.random.randbytes(4 * KiB) for at in range(0, 32 * MiB, 8 * KiB)})
    shown = content_of(t.mnt / "s")
    t.umount()
    kept = [(t.path / name).read_bytes() for name in ("disk0.img", "before.cow", "later.cow")]
    broken = t.define(merge_first + "  broken: {table: 0 65536 linear disk0 8}\n", "broken.yaml")
    holds("broken" in stderr_of(lab.VOLFS, "mount", broken, t.mnt), "message")
    holds((t.path / "disk0.img").read_bytes() == old, "the origin after a mount that failed")
    t.mount(t.define(merge_first.replace("hidden: true", "hidden: true, readonly: true"), "ro.yaml"), options=["ro"])
    equal(device(t, "merged")["map"]["table"].split()[2], "snapshot-merge", "table of a mount that only reads")
    holds(status_words(t, "merged")[0] != "Merge", "a merge in a mount that only reads")
    holds(content_of(t.mnt / "merged") == shown, "what a mount that only reads shows")
    t.umount()
    for mount in ("the whole", "apply"):
        for name, data in zip(("disk0.img", "before.cow", "later.cow"), kept):
            (t.path / name).write_bytes(data)
        whole = t.define(merge_first, "whole.yaml")
        t.mount(whole if mount == "the whole" else only)
        if mount == "apply":
            volfs("apply", whole, t.mnt, "--yes")
            equal(volfs("apply", whole, t.mnt, "--yes").strip(), "nothing to do", "the second time")
        holds(not (t.mnt / "slow").exists(), "a hidden map")
        wait_until(lambda: status_words(t, "merged")[0].split("/")[0] == status_words(t, "merged")[1], "the merge")
        equal(device(t, "merged")["map"]["table"].split()[2], "snapshot-merge", "table")
        holds(content_of(t.mnt / "merged") == shown, f"{mount}: what is merged")
        holds(content_of(t.mnt / "later") == old, f"{mount}: another snapshot")
        t.umount()
        holds((t.path / "disk0.img").read_bytes() == shown, f"{mount}: the origin")
        # Done: a mount that only reads shows it, too.
        t.mount(whole, options=["ro"])
        holds(content_of(t.mnt / "merged") == shown and content_of(t.mnt / "later") == old, f"{mount}: at the next mount")
        t.umount()


def kill(t):
    pid = t.pid()
    os.kill(pid, 9)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of a killed daemon")
    if lab.is_mounted(t.mnt):
        volfs("umount", t.mnt)


def test_a_merge_of_a_snapshot_in_no_definition_goes_on_after_a_crash(t):
    """For a store beside the definition, and for one elsewhere; a definition of other images is not concerned."""
    old = t.random.randbytes(32 * MiB)
    (t.path / "disk0.img").write_bytes(old)
    (t.path / "elsewhere").mkdir()
    t.file("later.cow", 64 * MiB)
    without = SLOW[:SLOW.index("snapshots:")]
    slow = t.define(without, "slow.yaml")
    for store in (t.path / "before.cow", t.path / "elsewhere/kept.cow"):
        t.mount(slow)
        snapshot("create", t.mnt / "before", "--origin", "data", "--cow", store, "--chunk-size", "4KiB")
        write_at_once(t.mnt / "data", {at: t.random.randbytes(4 * KiB) for at in range(0, 8 * MiB, 8 * KiB)})
        snapshot("merge", t.mnt / "before", "--yes")
        kill(t)
        holds((t.path / "disk0.img").read_bytes() != old, "the merge ended too early for the test")
        other = t.define("volfs: 1\nimages: {d: other.img}\nmaps: {m: {table: 0 8 linear d 0}}\n", "other.yaml")
        t.file("other.img", 1 * MiB)
        t.mount(other)
        t.umount()
        t.mount(slow, options=["ro"])
        holds(content_of(t.mnt / "data") == old, "the origin of a mount that only reads")
        t.umount()
        os.rename(store, t.path / "away")
        message = stderr_of(lab.VOLFS, "mount", slow, t.mnt)
        holds("data: before was being merged into it, and that cannot go on" in message, message)
        os.rename(t.path / "away", store)
        t.mount(slow)
        holds(content_of(t.mnt / "data") == old, "the origin of a mount that goes on")
        snapshot("wait", t.mnt / "before", "--timeout", "100")
        equal(device(t, "data")["map"]["table"], "0 65536 linear slow 0\n", "table of the origin")
        holds(content_of(t.mnt / "data") == old, "the origin after the merge")
        t.umount()
        holds((t.path / "disk0.img").read_bytes() == old, "the image")
        equal([str(each) for each in t.path.rglob("*") if each.name in ("before.cow", "kept.cow") or ".merging" in each.name], [], "files")


def test_a_marker_left_behind_merges_no_other_snapshot(t):
    definition = t.define(SLOW[:SLOW.index("maps:")].replace(", later-file: later.cow", "") +
                          "maps: {data: {table: 0 65536 linear disk0 0}}\n"
                          "snapshots: {s: {origin: data, cow: {path: s.cow, size: 64MiB}}}\n", "with.yaml")
    (t.path / "disk0.img").write_bytes(bytes(32 * MiB))
    marker = t.path / "s.cow.merging"
    marker.touch()
    volfs("create", definition)
    holds(not marker.exists(), "a marker after create")
    t.mount(definition)
    marker.touch()
    snapshot("remove", t.mnt / "s", "--yes")
    holds(not marker.exists(), "a marker after remove")
    marker = t.path / "u.cow.merging"
    marker.touch()
    snapshot("create", t.mnt / "u", "--origin", "data")
    holds(not marker.exists(), "a marker after snapshot create")


def test_a_merge_is_done_before_its_store_goes(t):
    """And the record last, which says that it is done: a daemon killed between them leaves no file that nobody knows."""
    live(t)
    snapshot("create", t.mnt / "s", "--origin", "data")
    write_at_once(t.mnt / "data", {0: b"x" * 4 * KiB})
    events = libc.inotify_init()
    libc.inotify_add_watch(events, str(t.path).encode(), 0x200)  # IN_DELETE
    snapshot("merge", t.mnt / "s", "--yes")
    snapshot("wait", t.mnt / "s", "--timeout", "60")
    text, names = os.read(events, 65536), []
    os.close(events)
    while text:
        length = int.from_bytes(text[12:16], "little")
        names.append(text[16:16 + length].rstrip(b"\0").decode())
        text = text[16 + length:]
    equal(names, ["s.cow.merging", "s.cow", "s.merging"], "what went, in its order")


def runs(pid):
    """Whether a process has not ended; one that nobody has buried yet has."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_unmounting_waits_for_the_daemon_though_others_mount(t):
    """The number of its device is the next mount's at once, and is no sign that the first one is still there."""
    (t.path / "disk0.img").write_bytes(bytes(32 * MiB))
    t.file("later.cow", 64 * MiB)
    slow = t.define(SLOW[:SLOW.index("snapshots:")].replace("0 0 6", "0 0 20"), "slow.yaml")
    t.mount(slow)
    snapshot("create", t.mnt / "before", "--origin", "data", "--chunk-size", "4KiB")
    write_at_once(t.mnt / "data", {at: b"x" * 4 * KiB for at in range(0, MiB, 8 * KiB)})
    snapshot("merge", t.mnt / "before", "--yes")
    pid = t.pid()
    unmount = subprocess.Popen([lab.VOLFS, "umount", t.mnt])
    wait_until(lambda: not lab.is_mounted(t.mnt), "the unmount")
    other = t.path / "other"
    other.mkdir()
    t.file("other.img", MiB)
    t.mount(t.define("volfs: 1\nimages: {d: other.img}\nmaps: {m: {table: 0 8 linear d 0}}\n", "other.yaml"), mnt=other)
    holds(runs(pid), "the first daemon ended too early for the test")
    equal(unmount.wait(60), 0, "exit status of umount")
    holds(not runs(pid), "umount returned before the daemon's end")


class Keeper(threading.Thread):
    """Writes files and syncs them, one after the other; `kept` are those whose fsync has returned."""

    def __init__(self, t, directory):
        super().__init__(daemon=True)
        self.directory, self.kept, self.stop = directory, {}, False
        self.random = t.random

    def run(self):
        for i in range(100000):
            if self.stop:
                return
            data = self.random.randbytes(self.random.randrange(1, 60000))
            with open(self.directory / f"file{i}", "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.kept[f"file{i}"] = data


def test_a_snapshot_of_a_busy_file_system_holds_what_was_synced(t):
    lab.need_loop()
    lab.need_program("mkfs.ext4", "e2fsck", "fio")
    live(t)
    loop = t.loop(t.mnt / "data")
    run("mkfs.ext4", "-q", loop)
    fs = t.mount_fs(loop, "fs")
    keeper = Keeper(t, fs)
    fio = subprocess.Popen(["fio", "--name=load", f"--directory={fs}", "--rw=randwrite", "--bs=4k", "--size=8M", "--fsync=20",
                            "--time_based", "--runtime=60", "--thread", "--output-format=terse"], stdout=subprocess.DEVNULL)
    t.cleanup.callback(fio.wait)
    t.cleanup.callback(fio.kill)
    keeper.start()
    try:
        taken = []
        for i in range(3):
            wait_until(lambda: len(keeper.kept) >= 10 * (i + 1), "files")
            kept = dict(keeper.kept)
            snapshot("create", t.mnt / f"s{i}", "--origin", "data")
            taken.append((t.mnt / f"s{i}", kept))
            holds(fio.poll() is None, "fio ended")
        wait_until(lambda: len(keeper.kept) >= 50, "more files")
        for path, kept in taken:
            status = subprocess.run(["e2fsck", "-fp", str(path)], stdout=subprocess.PIPE, text=True)
            holds(status.returncode in (0, 1), f"e2fsck -fp: {status.returncode} {status.stdout}")
            run("e2fsck", "-fn", path)
            device_of = t.loop(path)
            shown = t.mount_fs(device_of, "shown", "-o", "ro")
            for name, data in kept.items():
                holds((shown / name).read_bytes() == data, f"{name} of {path}")
            run("umount", shown)
            run("losetup", "-d", device_of)
        snapshot("remove", t.mnt / "s1", "--yes")
    finally:
        keeper.stop = True
        keeper.join()
        fio.kill()
        fio.wait()
    run("umount", fs)
    run("losetup", "-d", loop)
    run("e2fsck", "-fn", t.mnt / "data")
    before = content_of(t.mnt / "s2")
    snapshot("merge", t.mnt / "s2", "--yes")
    snapshot("wait", t.mnt / "s2", "--timeout", "300")
    holds(content_of(t.mnt / "data") == before, "the origin after the merge")
    run("e2fsck", "-fn", t.mnt / "data")
    snapshot("remove", t.mnt / "s0", "--yes")
    equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "top"], "names")


GOLDEN = pathlib.Path(__file__).parent.parent / "golden/snapshot"


def golden_case(t, facts):
    """Lays a case's files out; returns the definition's lines for its origin and stores."""
    folder = t.path / facts.stem
    folder.mkdir()
    case = json.loads(facts.read_text())
    with tarfile.open(facts.with_suffix(".tar.xz")) as archive:
        for name, size in zip(("origin", "store0", "store1"), (case["origin"], *case["stores"])):
            (folder / name).write_bytes(archive.extractfile(name).read())
            os.truncate(folder / name, size)
    return folder, case


def test_stores_that_linux_wrote_read_as_linux_read_them(t):
    found = 0
    for facts in sorted(GOLDEN.glob("*.json")):
        folder, case = golden_case(t, facts)
        sectors = case["origin"] // 512
        lines = [f"volfs: 1\nimages: {{i: {folder}/origin}}\nmaps: {{o: {{table: 0 {sectors} linear i 0}}}}\nsnapshots:"]
        shown = [index for index in (0, 1) if case["status"][index]]
        for index in shown:
            # The chunk size is the store's affair, whatever the definition says.
            lines.append(f"  s{index}: {{origin: o, cow: {{path: {folder}/store{index}}}, chunk_size: 8KiB}}")
        definition = t.define("\n".join(lines), f"{facts.stem}.yaml")
        files = [sha256(each) for each in sorted(folder.iterdir())]
        t.mount(definition, options=["ro"])
        for index in shown:
            if case["sums"][index]:
                equal(sha256(t.mnt / f"s{index}"), case["sums"][index], f"{facts.stem}: snapshot {index}")
            else:
                raises(errno.EIO, (t.mnt / f"s{index}").read_bytes)
            equal(" ".join(status_words(t, f"s{index}")), case["status"][index], f"{facts.stem}: status of {index}")
        if case.get("origin_sum"):
            equal(sha256(t.mnt / "o"), case["origin_sum"], f"{facts.stem}: origin")
        t.umount()
        equal([sha256(each) for each in sorted(folder.iterdir())], files, f"{facts.stem}: files of a mount that only reads")
        if case.get("merging"):
            t.mount(t.define(f"volfs: 1\nimages: {{i: {folder}/origin, c: {folder}/store0}}\nmaps: {{m: {{table: "
                             f"0 {sectors} snapshot-merge i c P {case['chunk_size'] // 512}}}}}", "merge.yaml"))
            wait_until(lambda: status_words(t, "m")[0].split("/")[0] == status_words(t, "m")[1], "the merge")
            t.umount()
            equal(sha256(folder / "origin"), case["sums"][0], f"{facts.stem}: merged to its end")
        found += 1
    equal(found, 12, "cases")


if __name__ == "__main__":
    lab.main(globals())
