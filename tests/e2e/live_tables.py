# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps that are made, changed and removed while they are used, by the commands of `volfs map`."""
import os
import subprocess
import sys
import threading
import time

import lab
from lab import MiB, Failed, equal, holds, run, stderr_of, volfs

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 8MiB}
  disk1: {path: disk1.img, size: 8MiB}
maps:
  data: {table: "0 8192 linear disk0 0"}
  other: {table: "0 8192 linear disk1 8192"}
"""


def fresh(t):
    definition = t.define(DEFINITION)
    (t.path / "disk0.img").write_bytes(b"0" * 8 * MiB)
    (t.path / "disk1.img").write_bytes(b"1" * 8 * MiB)
    t.mount(definition)
    data = t.mnt / "data"
    # A test that fails must not leave its own threads waiting on a suspended map.
    t.cleanup.callback(lambda: volfs("map", "resume", data, status=None))
    return data


def in_map(name, path, *arguments, **options):
    return volfs("map", name, path, *arguments, **options)


def refused(name, path, *arguments, status=1):
    return stderr_of(lab.VOLFS, "map", name, path, *arguments, status=status)


def counted(path):
    """Bytes that reading to the end gives."""
    total = 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(MiB):
            total += len(piece)
    return total


def first_byte(path):
    with open(path, "rb") as file:
        return file.read(1)


def test_create_table_status_rename_remove(t):
    fresh(t)
    new, renamed = t.mnt / "new", t.mnt / "renamed"
    for _ in range(5):
        # A name that was looked for in vain must not be remembered as missing.
        holds(not new.exists(), "a map that was not made yet exists")
        in_map("create", new, input="# a comment\n0 100 zero\n\n100 4096 striped 2 8 disk1 0 data 0\n")
        equal(new.stat().st_size, 4196 * 512, "size of a new map")
        equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "new", "other"], "names")
        in_map("rename", new, "renamed")
        holds(not new.exists() and renamed.exists(), "the new name is not there at once")
        in_map("remove", renamed)
        equal(sorted(os.listdir(t.mnt)), [".volfs", "data", "other"], "names after remove")
    in_map("create", new, "--table", "0 4196 striped 2 8 disk1 0 data 0", "-u", "uuid-1", status=1)
    in_map("create", new, "--table", "0 4096 striped 2 8 disk1 0 data 0", "-u", "uuid-1")
    equal(in_map("table", new), "0 4096 striped 2 8 disk1 0 data 0\n", "table")
    equal(in_map("status", new), "0 4096 striped 2 disk1 data 1 AA\n", "status")
    device = next(d for d in t.status()["devices"] if d["name"] == "new")
    equal(device["uuid"], "uuid-1", "uuid")
    equal(device["devices"], ["disk1", "data"], "devices below")
    in_map("create", t.mnt / "readonly", "-r", "--table", "0 8 zero")
    lab.raises(30, os.open, t.mnt / "readonly", os.O_RDWR)
    # The texts of the whole mount are those of the maps, with their names.
    table = (t.mnt / ".volfs/table").read_text().splitlines()
    equal(sorted(table), ["data: 0 8192 linear disk0 0", "new: 0 4096 striped 2 8 disk1 0 data 0",
                          "other: 0 8192 linear disk1 8192", "readonly: 0 8 zero "], ".volfs/table")


def test_what_is_refused_and_why(t):
    data = fresh(t)
    for table, expected in [
            ("0 8 nothing", 'target type "nothing": expected one of linear'),
            ("0 8 linear disk9 0", 'device "disk9": there is no such device'),
            ("0 8 linear disk0", "expected <device> <start sector>"),
            ("0 8 linear disk0 0\n9 8 zero", "table:2"),
            ("0 8 linear disk0 0\n7 8 zero", "table:2"),
            ("8 8 zero", "table:1"),
            ("0 17000 linear disk0 0", "table:1"),
            ("0 0 zero", "table:1"),
            ("", "table")]:
        message = stderr_of("sh", "-c", 'printf "%s" "$1" | "$2" map create "$3"', "sh", table,
                            lab.VOLFS, t.mnt / "new")
        holds(message.startswith("volfs: new: ") and expected in message,
              f"{table!r}: message {message!r} says nothing of {expected!r}")
        holds(not (t.mnt / "new").exists(), "a refused map exists")
    for command, expected in [
            (("create", data, "--table", "0 8 zero"), "there is a device of that name"),
            (("create", t.mnt / "disk0", "--table", "0 8 zero"), "there is a device of that name"),
            (("load", data, "--table", "0 8 linear data 0"), "stands on data itself"),
            (("rename", data, "other"), "there is a device of that name"),
            (("rename", data, "../x"), "not a name"),
            (("remove", t.mnt / "nothing"), "nothing: no such device"),
            (("suspend", t.mnt / "disk0"), "disk0: not a map but an image"),
            (("message", data, "0", "hello"), "data: linear: message \"hello\""),
            (("message", data, "8192", "hello"), "data: message for sector 8192"),
            (("table", t.mnt), "expected one of its maps"),
            (("table", t.path / "nowhere"), "not on a volfs mount")]:
        message = refused(*command)
        holds(expected in message, f"{command}: message {message!r} says nothing of {expected!r}")
    for command in (["map"], ["map", "frob", data], ["map", "table"], ["map", "table", data, "x"],
                    ["map", "suspend", data, "--timeout", "-1"]):
        holds(stderr_of(lab.VOLFS, *command, status=2), f"{command}: nothing is said")


def test_a_busy_map_stays_and_says_who_uses_it(t):
    data = fresh(t)
    in_map("create", t.mnt / "top", "--table", "0 8 linear data 0")
    holds("data: in use by top" in refused("remove", data), "the user is not named")
    in_map("load", t.mnt / "other", "--table", "0 8192 linear data 0")
    in_map("remove", t.mnt / "top")
    holds("data: in use by other" in refused("remove", data), "an inactive table is no user")
    in_map("clear", t.mnt / "other")
    with open(data, "rb"):
        holds("data: in use: 1 open file" in refused("remove", data), "an open file is no user")
    # Right after the last close, and with somebody looking, it goes.
    stop = threading.Event()

    def look():
        while not stop.is_set():
            try:
                os.stat(data)
            except FileNotFoundError:
                return

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        with open(data, "r+b", buffering=0) as file:
            file.write(b"x")
        in_map("remove", data)
    finally:
        stop.set()
        looker.join()
    holds(not data.exists(), "the removed map is still there")


def test_load_and_resume_swap_data_and_size(t):
    data = fresh(t)
    equal(first_byte(data), b"0", "data before")
    in_map("load", data, "--table", "0 8192 linear disk1 0")
    equal(in_map("table", data, "--inactive"), "0 8192 linear disk1 0\n", "inactive table")
    equal(in_map("table", data), "0 8192 linear disk0 0\n", "active table")
    equal(first_byte(data), b"0", "data after load alone")
    in_map("resume", data)
    equal(in_map("table", data), "0 8192 linear disk1 0\n", "table after resume")
    equal(in_map("table", data, "--inactive"), "", "inactive table after resume")
    equal(first_byte(data), b"1", "data after resume")
    with open(data, "rb", buffering=0) as kept:
        for sectors in (16384, 1000, 8192, 8):
            in_map("suspend", data)
            in_map("load", data, "--table", f"0 {sectors} linear disk0 0")
            in_map("resume", data)
            equal(data.stat().st_size, sectors * 512, "size by name")
            equal(os.fstat(kept.fileno()).st_size, sectors * 512, "size of an open file")
            equal(kept.seek(0, 2), sectors * 512, "seek to the end")
            equal(counted(data), sectors * 512, "bytes read")
    in_map("load", data, "--table", "0 8 zero")
    in_map("clear", data)
    in_map("resume", data)
    equal(in_map("table", data), "0 8 linear disk0 0\n", "a cleared table")


def test_a_suspended_map_holds_its_io_and_nothing_else(t):
    data = fresh(t)
    done = []
    in_map("suspend", data)
    equal(next(d for d in t.status()["devices"] if d["name"] == "data")["map"]["suspended"], True,
          "state")

    def read(i):
        fd = os.open(data, os.O_RDWR | (os.O_DIRECT if i % 2 else 0))
        try:
            if i % 2:
                import mmap
                memory = mmap.mmap(-1, 4096)
                os.preadv(fd, [memory], 4096 * i)
                done.append(bytes(memory[:1]))
            else:
                done.append(os.pread(fd, 1, 4096 * i))
        finally:
            os.close(fd)

    readers = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(64)]
    for reader in readers:
        reader.start()
    # The other volume, names, attributes, and control all answer meanwhile.
    with open(t.mnt / "other", "r+b", buffering=0) as other:
        for i in range(50):
            other.seek(i * 5000)
            other.write(b"hello")
            os.fsync(other.fileno())
            other.seek(i * 5000)
            equal(other.read(5), b"hello", "the other volume")
    equal(os.stat(data).st_size, 4 * MiB, "stat of a suspended map")
    run("ls", "-l", t.mnt)
    holds("ETIMEDOUT" not in in_map("status", data), "status")
    in_map("create", t.mnt / "new", "--table", "0 8 zero")
    in_map("remove", t.mnt / "new")
    volfs("status", t.mnt)
    equal(done, [], "I/O that a suspended map let through")
    in_map("load", data, "--table", "0 8192 linear disk1 0")
    in_map("resume", data)
    for reader in readers:
        reader.join(60)
        if reader.is_alive():
            raise Failed("a reader still waits after resume")
    equal(done, [b"1"] * 64, "what the readers got from the new table")


def test_a_held_write_reaches_the_new_table_and_a_killed_reader_dies(t):
    data = fresh(t)
    in_map("suspend", data)
    writer = threading.Thread(target=lambda: data.open("r+b", buffering=0).write(b"late"),
                              daemon=True)
    writer.start()
    reader = subprocess.Popen(["dd", f"if={data}", "of=/dev/null", "iflag=direct", "bs=4k",
                               "skip=100", "count=1"],  # another page than the one that the write holds
                              stderr=subprocess.DEVNULL)
    time.sleep(0.1)
    reader.kill()
    reader.wait(60)
    in_map("load", data, "--table", "0 8192 linear disk1 0")
    in_map("resume", data)
    writer.join(60)
    holds(not writer.is_alive(), "the write still waits")
    with open(data, "rb") as file:
        equal(file.read(5), b"late1", "a write that waited")
    t.umount()
    equal((t.path / "disk1.img").read_bytes()[:4], b"late", "the image")
    equal((t.path / "disk0.img").read_bytes()[:4], b"0000", "the image of the old table")


def test_killed_programs_leave_a_suspended_map(t):
    """As many as wait, and more than volfs has threads for; what they would have written never is."""
    data = fresh(t)
    expected = data.read_bytes()
    in_map("suspend", data)
    script = ("import mmap, os, sys\n"
              "flags, what, at, n = (int(word) for word in sys.argv[2:])\n"
              "fd = os.open(sys.argv[1], os.O_RDWR | flags)\n"
              "memory = mmap.mmap(-1, 4096 * 2)\n"
              "memory.write(b'x' * len(memory))\n"
              "part = memoryview(memory)[:n]\n"
              "print('open', flush=True)\n"
              "sys.stdin.readline()\n"
              "(os.pwritev if what else os.preadv)(fd, [part], at)\n")
    waiting = []
    for i in range(40):
        direct, write, odd = i & 1, i >> 1 & 1, i >> 2 & 1
        waiting.append(subprocess.Popen(
            [sys.executable, "-c", script, str(data), str(os.O_DIRECT if direct else 0), str(write),
             str(8192 * i + (odd * 100 if not direct else 0)), str(8192 if direct else 4096 + odd)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for process in waiting:
        equal(process.stdout.readline(), b"open\n", "a program")
    for process in waiting:
        process.stdin.close()
    time.sleep(0.5)
    for process in waiting:
        equal(process.poll(), None, "a program that should wait")
        process.kill()
    for process in waiting:
        equal(process.wait(60), -9, "a killed program")
        process.stdout.close()
    in_map("resume", data)
    equal(data.read_bytes(), expected, "the volume that killed programs would have written to")
    t.umount()
    equal((t.path / "disk0.img").read_bytes()[:len(expected)], expected, "its image")


def test_a_suspend_that_waits_locks_nothing_else(t):
    data = fresh(t)
    low, top = t.mnt / "low", t.mnt / "top"
    in_map("create", low, "--table", "0 64 linear data 0")
    in_map("create", top, "--table", "0 64 linear low 0")
    in_map("suspend", low)
    waiting = [subprocess.Popen(["dd", f"if={top}", "of=/dev/null", "bs=4k", "count=1",
                                 "iflag=direct", "status=none"])]
    time.sleep(0.3)
    waiting.append(subprocess.Popen([lab.VOLFS, "map", "suspend", top]))
    time.sleep(0.3)
    in_map("load", top, "--table", "0 32 zero", timeout=20)
    in_map("load", top, "--table", "0 64 linear data 64", timeout=20)
    run("cat", t.mnt / ".volfs/table", timeout=20)
    in_map("create", t.mnt / "third", "--table", "0 64 zero", timeout=20)
    in_map("remove", t.mnt / "third", timeout=20)
    holds("low" in volfs("status", t.mnt, timeout=20), "status beside a suspend that waits")
    equal([process.poll() for process in waiting], [None, None], "a read and a suspend that wait")
    in_map("resume", low)
    equal([process.wait(60) for process in waiting], [0, 0], "what waited")
    in_map("resume", top)
    equal(first_byte(top), b"0", "the table that was loaded meanwhile")
    t.umount()


def test_uuids_of_maps_are_checked(t):
    fresh(t)
    new = t.mnt / "new"
    in_map("create", new, "--table", "0 64 zero", "-u", "first")
    for uuid, why in (("a b", "expected at most 128 bytes without blanks and '/'"),
                      ("a/b", "expected at most 128 bytes without blanks and '/'"),
                      ("x" * 129, "expected at most 128 bytes without blanks and '/'"),
                      ("first", "the uuid 'first' is that of new")):
        said = refused("create", t.mnt / "bad", "--table", "0 64 zero", "-u", uuid)
        holds(why in said, f"the refusal of a uuid: {said}")
    t.umount()


def test_killed_programs_that_free_or_look_for_holes_leave_a_suspended_map(t):
    data = fresh(t)
    expected = data.read_bytes()
    pid = t.pid()
    in_map("suspend", data)
    script = ("import ctypes, os, sys\n"
              "fd = os.open(sys.argv[1], os.O_RDWR)\n"
              "print('open', flush=True)\n"
              "{'punch': lambda: ctypes.CDLL(None).fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(65536)),\n"
              " 'zero': lambda: ctypes.CDLL(None).fallocate(fd, 16, ctypes.c_long(0), ctypes.c_long(65536)),\n"
              " 'seek': lambda: os.lseek(fd, 0, os.SEEK_DATA)}[sys.argv[2]]()\n")
    waiting = [subprocess.Popen([sys.executable, "-c", script, str(data), what], stdout=subprocess.PIPE)
               for what in ("seek", "punch", "zero", "seek")]
    for process in waiting:
        equal(process.stdout.readline(), b"open\n", "a program")
    time.sleep(0.5)
    for process in waiting:
        equal(process.poll(), None, "a program that should wait")
        process.kill()
    for process in waiting:
        equal(process.wait(60), -9, "a killed program")
        process.stdout.close()
    # Nobody asks again and again for what they were killed in.
    before = switches(pid)
    time.sleep(1)
    made = switches(pid) - before
    holds(made < 100, f"the daemon made {made} context switches in a second of rest")
    in_map("resume", data)
    equal(data.read_bytes(), expected, "the volume in which killed programs would have made holes")


def switches(pid):
    """Voluntary context switches of all threads of a process."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt"))
    return total


def test_messages_reach_a_target(t):
    data = fresh(t)
    in_map("create", t.mnt / "dusty", "--table", "0 8192 dust data 0 512")
    dusty = t.mnt / "dusty"
    in_map("message", dusty, "0", "addbadblock 8")
    in_map("message", dusty, "0", "enable")
    holds("fail_read_on_bad_block" in in_map("status", dusty), "status of dust")
    fd = os.open(dusty, os.O_RDONLY)
    try:
        lab.raises(5, os.pread, fd, 512, 4096)
        in_map("message", dusty, "0", "disable")
        equal(os.pread(fd, 1, 4096), b"0", "a bad block that is disabled")
    finally:
        os.close(fd)


lab.main(globals())
