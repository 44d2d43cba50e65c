# SPDX-License-Identifier: GPL-2.0-or-later
"""volfs is killed before every single call that changes a file, while snapshots are taken, merged and
removed and overlays committed and discarded: the next one finds all bytes right, and ends what was begun."""
import itertools
import os
import subprocess
import threading

import lab
from lab import KiB, MiB, equal, holds, stderr_of, volfs, wait_until

STOP_AT = os.environ.get("VOLFS_STOP_AT", "")
SIZE = 1 * MiB
DATA = "volfs: 1\nimages: {disk0: disk0.img}\nmaps: {data: {table: 0 2048 linear disk0 0}}\n"
WITH = DATA + "snapshots: {s: {origin: data, cow: {path: s.cow}, chunk_size: 4KiB}}\n"


def need_stop_at():
    if not os.path.exists(STOP_AT):
        raise lab.Skip("VOLFS_STOP_AT does not name the library that kills")


def stopping(t):
    """An environment in which a volfs is killed once t.path/at says before which call."""
    (t.path / "at").unlink(missing_ok=True)
    return {**os.environ, "LD_PRELOAD": STOP_AT, "STOP_AT_FILE": str(t.path / "at")}


def arm(t, n):
    (t.path / "at.new").write_text(str(n))
    os.rename(t.path / "at.new", t.path / "at")


def ended(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def try_volfs(*arguments):
    """The exit status of a command whose daemon may be killed under it."""
    return subprocess.run([lab.VOLFS, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode


def clean(t):
    for each in t.path.iterdir():
        if each.name.startswith(("s.", "at", "disk0", "disk1")):
            each.unlink()


def blocks(t):
    """Content for a volume, and what it becomes by WRITES of single sectors."""
    old = t.random.randbytes(SIZE)
    writes = {at: t.random.randbytes(512) for at in range(0, 160 * KiB, 2 * KiB)}
    new = bytearray(old)
    for at, data in writes.items():
        new[at:at + 512] = data
    return old, writes, bytes(new)


def write_all(path, writes):
    with open(path, "r+b", buffering=0) as file:
        for at, data in writes.items():
            os.pwrite(file.fileno(), data, at)
        os.fsync(file.fileno())


def each_step(t, definition, prepare, act, check):
    """Kills the daemon before the first, second... call of ACT, on a mount that PREPARE set up; CHECK is told whether ACT said
    that it is done, and finds a fresh mount."""
    need_stop_at()
    for n in itertools.count(1):
        clean(t)
        prepare(t, False)
        t.mount(definition, env=stopping(t))
        prepare(t, True)
        pid = t.pid()
        arm(t, n)
        done = act()
        killed = ended(pid)
        (t.path / "at").unlink()
        if killed:
            volfs("umount", t.mnt)
        else:
            t.umount()
        t.mount(definition)
        check(done)
        t.umount()
        if not killed:
            break
    print(f"  {n - 1} steps", flush=True)
    holds(n > 2, "too few steps: nothing was counted")


def names(t):
    return sorted(each.name for each in t.path.iterdir() if each.name.startswith("s."))


def test_a_merge_killed_at_every_step_goes_on(t):
    """Of a snapshot that was taken at run time: afterwards there is no file of it left."""
    old, writes, new = blocks(t)

    def prepare(t, mounted):
        if not mounted:
            return (t.path / "disk0.img").write_bytes(old)
        volfs("snapshot", "create", t.mnt / "s", "--origin", "data", "--chunk-size", "512")
        write_all(t.mnt / "data", writes)

    def act():
        if try_volfs("snapshot", "merge", t.mnt / "s", "--yes") != 0:
            return False
        try_volfs("snapshot", "wait", t.mnt / "s", "--timeout", "30")
        return True

    def check(done):
        shown = (t.mnt / "data").read_bytes()
        holds(shown == old or not done and shown == new, f"what the origin shows: {names(t)}")
        if shown == new:  # the merge was not begun: what was made for it is a store that nobody uses
            return holds("s.merging" not in names(t), f"a record of a merge that does not go on: {names(t)}")
        try_volfs("snapshot", "wait", t.mnt / "s", "--timeout", "30")
        wait_until(lambda: names(t) == [], f"the end of the merge: {names(t)}")
        holds((t.mnt / "data").read_bytes() == old, "the origin after the merge")
        t.umount()
        holds((t.path / "disk0.img").read_bytes() == old, "the image")
        t.mount(definition)

    definition = t.define(DATA)
    each_step(t, definition, prepare, act, check)


def test_a_merge_of_a_definitions_snapshot_killed_at_every_step_goes_on(t):
    old, writes, new = blocks(t)

    def prepare(t, mounted):
        if not mounted:
            (t.path / "disk0.img").write_bytes(old)
            return t.file("s.cow", 4 * MiB)
        write_all(t.mnt / "data", writes)

    def act():
        if try_volfs("snapshot", "merge", t.mnt / "s", "--yes") != 0:
            return False
        try_volfs("snapshot", "wait", t.mnt / "s", "--timeout", "30")
        return True

    def check(done):
        shown = (t.mnt / "data").read_bytes()
        holds(shown == old or not done and shown == new, "what the origin shows")
        if shown == new:
            return holds((t.mnt / "s").read_bytes() == old, "the snapshot")
        if not (t.mnt / "s").exists():
            volfs("snapshot", "wait", t.mnt / "s", "--timeout", "30")
        equal(names(t), ["s.cow"], "files")
        t.umount()
        holds((t.path / "disk0.img").read_bytes() == old, "the image")
        t.mount(definition)
        holds((t.mnt / "s").read_bytes() == old, "the snapshot, of what there is now")

    definition = t.define(WITH)
    each_step(t, definition, prepare, act, check)


def test_taking_a_snapshot_killed_at_every_step_harms_nothing(t):
    old, writes, new = blocks(t)

    def prepare(t, mounted):
        if not mounted:
            return (t.path / "disk0.img").write_bytes(old)
        write_all(t.mnt / "data", writes)

    def check(done):
        holds((t.mnt / "data").read_bytes() == new, "the origin")
        holds(names(t) in ([], ["s.cow"]), f"files: {names(t)}")
        if try_volfs("snapshot", "create", t.mnt / "s", "--origin", "data") != 0:
            message = stderr_of(lab.VOLFS, "snapshot", "create", t.mnt / "s", "--origin", "data")
            holds("s.cow: holds the store of a snapshot already, an empty one" in message, message)
            (t.path / "s.cow").unlink()
            volfs("snapshot", "create", t.mnt / "s", "--origin", "data")
        write_all(t.mnt / "data", {0: b"x" * 4 * KiB})
        holds((t.mnt / "s").read_bytes() == new, "a snapshot that was taken then")

    each_step(t, t.define(DATA), prepare, lambda: try_volfs("snapshot", "create", t.mnt / "s", "--origin", "data") == 0, check)


def test_removing_a_snapshot_killed_at_every_step_never_shows_wrong_bytes(t):
    old, writes, new = blocks(t)

    def prepare(t, mounted):
        if not mounted:
            (t.path / "disk0.img").write_bytes(old)
            return t.file("s.cow", 4 * MiB)
        write_all(t.mnt / "data", writes)

    def check(done):
        holds((t.mnt / "data").read_bytes() == new, "the origin")
        write_all(t.mnt / "data", {512 * KiB: b"x" * 64 * KiB})
        try:
            holds((t.mnt / "s").read_bytes() == old and not done, "the snapshot")
        except OSError:
            equal(volfs("snapshot", "status", t.mnt / "s").split(":")[1].split()[0], "invalid", "state")

    each_step(t, t.define(WITH), prepare, lambda: try_volfs("snapshot", "remove", t.mnt / "s", "--yes") == 0, check)


OVERLAID = "volfs: 1\nimages: {disk0: disk0.img, disk1: disk1.img}\nmaps: {data: {table: 0 2048 striped 2 8 disk0 0 disk1 0}}\n"


def overlay_steps(t, command, check):
    need_stop_at()
    definition = t.define(OVERLAID)
    changes = t.path / "changes"
    images = {name: t.random.randbytes(SIZE // 2) for name in ("disk0.img", "disk1.img")}
    _, writes, _ = blocks(t)
    for n in itertools.count(1):
        for name, data in images.items():
            (t.path / name).write_bytes(data)
        t.mount(definition, options=[f"overlay={changes}"])
        write_all(t.mnt / "data", writes)
        shown = (t.mnt / "data").read_bytes()
        t.umount()
        env = stopping(t)
        arm(t, n)
        status = subprocess.run([lab.VOLFS, "overlay", command, changes, "--yes"], env=env, stdout=subprocess.DEVNULL).returncode
        check(changes, definition, shown, images)
        if status == 0:
            break
        equal(status, -9, "exit status")
    print(f"  {n - 1} steps", flush=True)
    holds(n > 2, "too few steps: nothing was counted")


def test_a_commit_killed_at_every_step_goes_on(t):
    def check(changes, definition, shown, images):
        if (changes / "overlay.json").exists():
            volfs("overlay", "commit", changes, "--yes")
        equal(sorted(each.name for each in changes.iterdir() if not each.name.endswith(".new")), ["lock"], "files")
        t.mount(definition, options=["ro"])
        holds((t.mnt / "data").read_bytes() == shown, "the images after the commit")
        t.umount()

    overlay_steps(t, "commit", check)


def test_a_discard_killed_at_every_step_leaves_the_images_and_no_half_of_it(t):
    def check(changes, definition, shown, images):
        for name, data in images.items():
            holds((t.path / name).read_bytes() == data, name)
        t.mount(definition, options=[f"overlay={changes}"])  # which ends a discard, if one was begun
        now = (t.mnt / "data").read_bytes()
        before = b"".join(images[f"disk{i % 2}.img"][i // 2 * 4 * KiB:(i // 2 + 1) * 4 * KiB] for i in range(SIZE // (4 * KiB)))
        holds(now in (shown, before), "what is shown")
        t.umount()
        volfs("overlay", "discard", changes, "--yes")

    overlay_steps(t, "discard", check)


def test_a_first_mount_with_an_overlay_killed_at_every_step_is_mounted_again(t):
    need_stop_at()
    content = {name: t.random.randbytes(300 * KiB) for name in ("disk0.img", "disk1.img")}
    for name, data in content.items():
        (t.path / name).write_bytes(data)
    definition = t.define("volfs: 1\nimages: {a: disk0.img, b: disk1.img}\nmaps:\n"
                          "  data: {table: 0 600 linear a 0}\n  more: {table: 0 600 linear b 0}\n")
    for n in itertools.count(1):
        changes = t.path / f"changes{n}"
        environment = stopping(t)
        arm(t, n)
        killed = subprocess.run([lab.VOLFS, "mount", definition, t.mnt, "-o", f"overlay={changes}"], env=environment,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode != 0
        if lab.is_mounted(t.mnt):
            try_volfs("umount", "--force", t.mnt)
        if not killed:
            break
        t.mount(definition, options=[f"overlay={changes}"])
        equal((t.mnt / "data").read_bytes() + (t.mnt / "more").read_bytes(), b"".join(content.values()), f"step {n}")
        t.umount()
    print(f"  {n - 1} steps")
    holds(n > 10, "steps")
    for name, data in content.items():
        equal((t.path / name).read_bytes(), data, name)


class Writer(threading.Thread):
    """Writes sectors and syncs them until the volume goes; knows what each may hold."""

    def __init__(self, t, path, content):
        super().__init__(daemon=True)
        self.random, self.content, self.tried = t.random, content, {}
        self.fd = os.open(path, os.O_RDWR)

    def run(self):
        try:
            while True:
                at, data = self.random.randrange(len(self.content) // 512) * 512, self.random.randbytes(512)
                self.tried[at] = data
                os.pwrite(self.fd, data, at)
                os.fsync(self.fd)
                self.content[at:at + 512] = data
                del self.tried[at]
        except OSError:
            pass
        finally:
            try:
                os.close(self.fd)
            except OSError:
                pass


def test_a_merge_killed_at_random_moments_under_writers_keeps_what_was_synced(t):
    old = t.random.randbytes(8 * MiB)
    (t.path / "disk0.img").write_bytes(old)
    t.file("later.cow", 32 * MiB)
    definition = t.define("""
volfs: 1
images: {disk0: disk0.img}
maps:
  slow: {table: 0 16384 delay disk0 0 0 disk0 0 4, hidden: true}
  data: {table: 0 16384 linear slow 0}
snapshots: {later: {origin: data, cow: {path: later.cow}}}
""")
    t.mount(definition)
    content = bytearray(old)
    volfs("snapshot", "create", t.mnt / "s", "--origin", "data", "--chunk-size", "512")  # 32 to an area, and to a batch
    write_all(t.mnt / "data", {at: t.random.randbytes(512) for at in range(0, 8 * MiB, 16 * KiB)})
    holds((t.mnt / "later").read_bytes() == old, "another snapshot")
    volfs("snapshot", "merge", t.mnt / "s", "--yes")
    kills = 0
    while (t.path / "s.merging").exists():
        writer = Writer(t, t.mnt / "data", content)
        pid = t.pid()
        writer.start()
        threading.Event().wait(0.05 + t.random.random() * 0.5)
        os.kill(pid, 9)
        writer.join(60)
        holds(not writer.is_alive(), "the writer hangs after the daemon was killed")
        wait_until(lambda: ended(pid), "the end of a killed daemon")
        volfs("umount", t.mnt)
        kills += 1
        t.mount(definition)
        shown = (t.mnt / "data").read_bytes()
        for at, data in writer.tried.items():
            if shown[at:at + 512] == data:
                content[at:at + 512] = data
        holds(shown == content, f"the origin after {kills} kills")
        holds((t.mnt / "later").read_bytes() == old, f"another snapshot after {kills} kills")
    print(f"  {kills} kills", flush=True)
    equal(names(t), [], "files")
    t.umount()
    holds((t.path / "disk0.img").read_bytes() == content, "the image")


if __name__ == "__main__":
    lab.main(globals())
