# SPDX-License-Identifier: GPL-2.0-or-later
"""Arrays under programs: fio verifies what it wrote while members fail, are replaced and rebuilt; read
errors are answered from the other members; nothing promised is lost by kill -9."""
import ctypes
import os
import signal
import subprocess
import threading

import lab
from lab import KiB, MiB, equal, holds, run, sha256, stderr_of, volfs

KINDS = {
    "raid1": ("level: raid1, bitmap: internal, bitmap_chunk: 64KiB", 2, 1),
    "raid5": ("level: raid5, chunk: 16KiB, bitmap: internal, bitmap_chunk: 64KiB", 3, 1),
    "raid6": ("level: raid6, chunk: 16KiB", 5, 2),
    "raid10": ("level: raid10, chunk: 16KiB, layout: f2", 4, 1),
}
DISK = 24 * MiB
FIO = ["fio", "--name=verify", "--size=12M", "--verify=crc32c", "--verify_fatal=1", "--randrepeat=0",
       "--verify_state_save=0", f"--randseed={lab.SEED}", "--output-format=terse", "--end_fsync=1"]
WAYS = [["--rw=randwrite", "--bsrange=4k-64k", "--ioengine=psync", "--direct=1"],
        ["--rw=randwrite", "--bs=4k", "--ioengine=io_uring", "--direct=1", "--iodepth=16"],
        ["--rw=randrw", "--bs=4k", "--ioengine=psync", "--direct=0"],
        ["--rw=write", "--bs=1M", "--ioengine=psync", "--direct=1"]]


def define(t, words, slots, more="", extra=2, limits=""):
    names = [f"d{i}" for i in range(slots + extra)]
    images = "".join(f"  {name}: {{path: {name}.img, size: {DISK}}}\n" for name in names)
    definition = t.define(f"volfs: 1\nimages:\n{images}arrays:\n"
                          f"  a: {{{words}, devices: [{', '.join(names[:slots])}]{limits}}}\n{more}")
    volfs("create", definition)
    return definition


def array(t, verb, *words):
    return volfs("array", verb, t.mnt / "a", *words)


def state(t):
    return next(device for device in t.status()["devices"] if device["name"] == "a")


def in_order(t):
    """Waits until all is synced; then nothing may disagree."""
    array(t, "wait", "--timeout", "300")
    array(t, "check")
    equal(array(t, "wait", "--timeout", "300"), "mismatch_cnt 0\n", "after a check")


def fio(t, way):
    run(*FIO, f"--filename={t.mnt / 'a'}", "--do_verify=1", *way)


def every_member_can_go(t, paths, losses):
    """Without each member the images read the same."""
    t.mount(*paths)
    whole = sha256(t.mnt / "a")
    t.umount()
    for i in range(losses and len(paths)):
        t.mount(*[path for path in paths if path not in paths[i:i + losses]])
        equal(sha256(t.mnt / "a"), whole, f"without {paths[i].name}")
        t.umount()


def lives_through(t, kind):
    lab.need_program("fio")
    words, slots, losses = KINDS[kind]
    definition = define(t, words, slots, extra=losses)
    t.mount(definition, options=["rw"])
    for way in WAYS:
        fio(t, way)  # while the first resync may still run
    in_order(t)
    equal(state(t)["state"], "active", "state")
    lost = [f"d{i}" for i in range(losses)]
    for name in lost:
        array(t, "fail", name)
        array(t, "remove", name)
    equal(state(t)["state"], "degraded", "state")
    for way in WAYS:
        fio(t, way)
    kept = sha256(t.mnt / "a")
    t.umount()
    paths = [t.path / f"d{i}.img" for i in range(slots + losses)]
    left = [path for path in paths[losses:slots]]
    t.mount(definition, options=["rw"])
    equal(sha256(t.mnt / "a"), kept, "after mounting again, degraded")
    for i in range(losses):
        array(t, "add", f"d{slots + i}")
    for way in WAYS:
        fio(t, way)  # while it is rebuilt
    in_order(t)
    equal(state(t)["state"], "active", "state")
    equal(sum(member["state"] == "in_sync" for member in state(t)["array"]["members"]), slots, "members")
    kept = sha256(t.mnt / "a")
    t.umount()
    every_member_can_go(t, left + paths[slots:], losses)
    t.mount(*left, *paths[slots:])
    equal(sha256(t.mnt / "a"), kept, "after mounting again")
    t.umount()


def test_raid1_lives_through_failures(t):
    lives_through(t, "raid1")


def test_raid5_lives_through_failures(t):
    lives_through(t, "raid5")


def test_raid6_lives_through_failures(t):
    lives_through(t, "raid6")


def test_raid10_lives_through_failures(t):
    lives_through(t, "raid10")


def test_a_member_that_fails_under_writes_is_replaced_under_writes(t):
    lab.need_program("fio")
    for kind in ("raid5", "raid10"):
        words, slots, _ = KINDS[kind]
        definition = define(t, words + ", assume_clean: true", slots, extra=1)
        t.mount(definition, options=["rw"])
        writer = subprocess.Popen([*FIO, f"--filename={t.mnt / 'a'}", "--do_verify=1", "--loops=6", *WAYS[1]],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        array(t, "fail", "d1")
        array(t, "remove", "d1")
        array(t, "add", f"d{slots}")
        said = writer.communicate(timeout=300)[0]
        equal(writer.returncode, 0, f"fio on {kind}: {said}")
        in_order(t)
        t.umount()
        for i in range(slots + 1):
            (t.path / f"d{i}.img").unlink()


def test_a_member_is_replaced_while_it_serves(t):
    lab.need_program("fio")
    for kind in ("raid1", "raid6"):
        words, slots, _ = KINDS[kind]
        definition = define(t, words + ", assume_clean: true", slots, extra=1)
        t.mount(definition, options=["rw"])
        fresh = f"d{slots}"
        holds("is no spare" in stderr_of(lab.VOLFS, "array", "replace", t.mnt / "a", "d1", "--with", "d0"), "refusal")
        writer = subprocess.Popen([*FIO, f"--filename={t.mnt / 'a'}", "--do_verify=1", "--loops=3", *WAYS[1]],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        array(t, "replace", "d1")  # waits for a spare
        equal([m["device"] for m in state(t)["array"]["members"] if m.get("to_replace")], ["d1"])
        array(t, "add", fresh)
        said = writer.communicate(timeout=300)[0]
        equal(writer.returncode, 0, f"fio on {kind}: {said}")
        in_order(t)
        equal(state(t)["state"], "active", "state")
        states = {m["device"]: m["state"] for m in state(t)["array"]["members"]}
        equal((states["d1"], states[fresh]), ("faulty", "in_sync"), "states")
        array(t, "remove", "d1")
        kept = sha256(t.mnt / "a")
        t.umount()
        t.mount(*[t.path / f"d{i}.img" for i in range(slots + 1) if i != 1])
        equal((sha256(t.mnt / "a"), state(t)["state"]), (kept, "active"), "after mounting again")
        t.umount()
        for i in range(slots + 1):
            (t.path / f"d{i}.img").unlink()


def test_a_replacement_goes_on_after_a_restart(t):
    definition = define(t, "level: raid5, chunk: 16KiB, assume_clean: true", 3, extra=1, limits=", sync_speed_max: 4MiB")
    t.mount(definition, options=["rw"])
    data = t.random.randbytes(MiB)
    with open(t.mnt / "a", "r+b", buffering=0) as file:
        file.write(data)
    array(t, "add", "d3")
    array(t, "replace", "d0", "--with", "d3")
    lab.wait_until(lambda: state(t)["array"]["sync"].get("position", 0) > 8 * MiB, "half of it")
    t.umount()
    paths = [t.path / f"d{i}.img" for i in range(4)]
    t.mount(*paths)  # as they are found, only to be read
    holds("d3.img[3](R)" in (t.mnt / ".volfs/mdstat").read_text(), (t.mnt / ".volfs/mdstat").read_text())
    equal((t.mnt / "a").read_bytes()[:MiB], data, "of the array")
    t.umount()
    t.mount(*paths, options=["rw"])
    in_order(t)
    equal({m["device"]: m["state"] for m in state(t)["array"]["members"]}["d3.img"], "in_sync")
    t.umount()
    t.mount(*paths[1:])
    equal(((t.mnt / "a").read_bytes()[:MiB], state(t)["state"]), (data, "active"), "without the old one")
    t.umount()


def read_direct(path, length):
    """The first bytes, past the page cache, which wants aligned memory."""
    buffer = memoryview(bytearray(length + 4 * KiB))
    start = -ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % (4 * KiB)
    with open(os.open(path, os.O_RDONLY | os.O_DIRECT), "rb", buffering=0) as file:
        equal(file.readinto(buffer[start:start + length]), length, "bytes read")
    return bytes(buffer[start:start + length])


def test_read_errors_are_answered_from_the_other_members(t):
    """Also on a volume that stands on the array, where requests go straight down to the images."""
    size = DISK // 512
    for words, slots in (("level: raid1", 2), ("level: raid5, chunk: 16KiB", 3), ("level: raid10, chunk: 16KiB", 4)):
        maps = "".join(f"  m{i}: {{table: 0 {size} dust d{i} 0 512}}\n" for i in range(slots))
        images = "".join(f"  d{i}: {{path: d{i}.img, size: {DISK}}}\n" for i in range(slots))
        text = (f"volfs: 1\nimages:\n{images}arrays:\n  a: {{{words}, assume_clean: true, "
                f"devices: [{', '.join(f'm{i}' for i in range(slots))}]}}\n")
        volfs("create", t.define(f"{text}maps:\n{maps}"))
        t.mount(t.define(f"{text}maps:\n{maps}"), options=["rw"])
        data = t.random.randbytes(MiB)
        with open(t.mnt / "a", "r+b", buffering=0) as file:
            file.write(data)
        t.umount()
        over = f"  over: {{table: 0 {2 * MiB // 512} linear a 0}}\n"
        t.mount(t.define(f"{text}maps:\n{maps}{over}"), options=["rw"])
        first = MiB // 512  # of the data on members so small, with small chunks
        for name, victim in (("over", "m0"), ("over", "m1"), ("a", "m0"), ("a", "m1")):
            for block in range(first, first + 256, 32):  # fewer than md lets a member have
                volfs("map", "message", t.mnt / victim, "0", f"addbadblock {block}")
            volfs("map", "message", t.mnt / victim, "0", "enable")
            equal(read_direct(t.mnt / name, MiB), data, f"{words}, by {name}")
            volfs("map", "message", t.mnt / victim, "0", "disable")
            volfs("map", "message", t.mnt / victim, "0", "clearbadblocks")
        members = state(t)["array"]["members"]
        holds(all(member["state"] == "in_sync" for member in members), f"{members}")
        # Which copy of a mirror is read first is the array's own affair.
        holds(sum(member["read_errors"] for member in members) > 0, f"{words}: nothing was corrected: {members}")
        t.umount()
        for i in range(slots):
            (t.path / f"d{i}.img").unlink()


class Writer(threading.Thread):
    """Writes blocks, flushes, and remembers what was promised and what was only tried."""

    def __init__(self, path, random, promised):
        super().__init__()
        self.fd = os.open(path, os.O_RDWR)
        self.random, self.promised, self.tried = random, promised, {}

    def run(self):
        try:
            while True:
                at = self.random.randrange(8 * MiB // (4 * KiB)) * 4 * KiB
                data = self.random.randbytes(4 * KiB)
                self.tried[at] = data
                os.pwrite(self.fd, data, at)
                os.fsync(self.fd)
                self.promised[at] = data
                del self.tried[at]
        except OSError:
            pass
        finally:
            try:
                os.close(self.fd)
            except OSError:
                pass


def test_nothing_promised_is_lost_by_kill_9(t):
    kinds = KINDS | {"raid5 with a log": ("level: raid5, chunk: 16KiB, consistency: ppl", 3, 1)}
    for kind, (words, slots, _) in kinds.items():
        # A raid5 or raid6 that is dirty before its first recovery has ended needs force, as in Linux.
        definition = define(t, words + ", assume_clean: true", slots, extra=0)
        promised = {}
        for turn in range(4):
            t.mount(definition, options=["rw"])
            writer = Writer(t.mnt / "a", t.random, promised)
            pid = t.pid()
            writer.start()
            threading.Event().wait(0.2 + t.random.random() * 0.4)
            os.kill(pid, signal.SIGKILL)
            writer.join(60)
            holds(not writer.is_alive(), "the writer hangs after the daemon was killed")
            volfs("umount", t.mnt)
            t.mount(definition, options=["rw"])
            if turn % 2:
                in_order(t)
            with open(t.mnt / "a", "rb", buffering=0) as volume:
                for at, data in promised.items():
                    found = os.pread(volume.fileno(), 4 * KiB, at)
                    holds(found in (data, writer.tried.get(at)), f"{kind}: block {at} is not what was promised")
                for at in writer.tried:
                    promised[at] = os.pread(volume.fileno(), 4 * KiB, at)
            t.umount()
        holds(len(promised) > 5, "the writer wrote next to nothing")
        for i in range(slots):
            (t.path / f"d{i}.img").unlink()


def test_a_dirty_degraded_raid5_is_written_only_by_force(t):
    definition = define(t, "level: raid5, chunk: 16KiB, assume_clean: true", 3, extra=0)
    t.mount(definition, options=["rw"])
    with open(t.mnt / "a", "r+b", buffering=0) as file:
        file.write(t.random.randbytes(MiB))
        os.fsync(file.fileno())
        os.kill(t.pid(), signal.SIGKILL)
    volfs("umount", t.mnt)
    (t.path / "d2.img").unlink()
    text = definition.read_text().replace("d1, d2]", "d1, missing]").replace("  d2: ", "  x-d2: ")
    text = "\n".join(line for line in text.split("\n") if "x-d2" not in line)
    left = t.define(text, "left.yaml")
    before = [sha256(t.path / f"d{i}.img") for i in range(2)]
    message = stderr_of(lab.VOLFS, "mount", left, t.mnt, "-o", "rw")
    holds("force" in message and "not stopped cleanly" in message, message)
    t.mount(left, options=["ro"])
    sha256(t.mnt / "a")
    t.umount()
    equal([sha256(t.path / f"d{i}.img") for i in range(2)], before, "digests of the images")
    t.mount(left, options=["rw,force"])
    equal(state(t)["state"], "degraded", "state")
    t.umount()


def test_an_array_that_joins_another_keeps_its_snapshots(t):
    """What joins is the array as others use it, not what lies below."""
    names = [f"d{i}" for i in range(4)]
    images = "".join(f"  {name}: {{path: {name}.img, size: {DISK}}}\n" for name in names)
    definition = t.define(f"""volfs: 1
images:
{images}arrays:
  a: {{level: raid1, devices: [d0, d1], assume_clean: true, size: 4MiB}}
  b: {{level: raid1, devices: [d2, d3], assume_clean: true}}
""")
    volfs("create", definition)
    t.mount(definition, options=["rw"])
    volfs("snapshot", "create", t.mnt / "before", "--origin", t.mnt / "b", "--cow", t.path / "before.cow",
          "--size", "32M")
    before = sha256(t.mnt / "before")
    array(t, "add", "b")
    array(t, "fail", "d0")
    array(t, "wait", "--timeout", "60")
    equal(state(t)["state"], "active", "state")
    equal(sha256(t.mnt / "before"), before, "the snapshot of b, which was overwritten meanwhile")
    t.umount()


def test_arrays_that_cannot_be_assembled_are_in_the_status(t):
    definition = define(t, "level: raid1, assume_clean: true", 2, extra=3,
                        more="  c: {level: raid5, devices: [d2, d3, d4], assume_clean: true, homehost: h}\n")
    holds(definition.exists(), "definition")
    t.mount(t.path / "d0.img", t.path / "d1.img", t.path / "d2.img")
    missing, = t.status()["unavailable"]
    equal((missing["volume"], missing["state"]), ("c", "failed"))
    holds("too few members of 3: slots 1, 2 are missing or not in sync" in missing["reason"], missing["reason"])
    t.umount()


lab.main(globals())
