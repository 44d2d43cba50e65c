# SPDX-License-Identifier: GPL-2.0-or-later
"""What is special about requests by io_uring: when they come, what happens when they cannot, when many
of them wait, and when the connection ends under them."""
import errno
import mmap
import os
import pathlib
import signal
import threading
import time
import traceback

import lab
from lab import KiB, MiB, Skip, equal, holds, run, stderr_of, volfs

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 16MiB%s}
maps:
  data: {table: "0 16384 linear disk0 0"}
  other: {table: "0 16384 linear disk0 16384"}
"""
CONNECTIONS = pathlib.Path("/sys/fs/fuse/connections")


def fresh(t, image=""):
    lab.offer_ring()
    definition = t.define(DEFINITION % image)
    volfs("create", definition)
    return definition


def in_threads(count, function):
    """Runs FUNCTION(0..COUNT-1) at once; gives the threads and what they returned or raised."""
    results = [None] * count

    def work(i):
        try:
            results[i] = function(i)
        except OSError as error:
            results[i] = error
    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def join(threads):
    for thread in threads:
        thread.join(60)
        holds(not thread.is_alive(), "a thread hangs in its system call")


def direct_read(path, offset, size):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        page = mmap.mmap(-1, size)
        equal(os.preadv(fd, [page], offset), size, "bytes read")
        return bytes(page)
    finally:
        os.close(fd)


def test_who_brings_requests_is_chosen_and_told(t):
    definition = fresh(t)
    for options, expected in ((["-o", "transport=ring"], "io_uring"), (["-o", "transport=threads"], "threads"),
                              ([], "io_uring")):
        run(lab.VOLFS, "mount", *options, definition, t.mnt)
        t.cleanup.callback(t.take_off, t.mnt)
        equal(t.status()["transport"], expected, f"transport in status.json with {options}")
        t.umount()
    message = stderr_of(lab.VOLFS, "mount", "-o", "transport=pigeon", definition, t.mnt, status=2)
    holds("'transport=pigeon': expected auto, ring or threads" in message, message)


def test_without_all_cpus_it_is_threads(t):
    lab.need_program("taskset")
    definition = fresh(t)
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise Skip("needs two CPUs")
    one = ["taskset", "-c", str(cpus[0]), lab.VOLFS, "mount"]
    run(*one, "-o", "transport=auto", definition, t.mnt)
    t.cleanup.callback(t.take_off, t.mnt)
    equal(t.status()["transport"], "threads", "transport")
    t.umount()
    message = stderr_of(*one, "-o", "transport=ring", definition, t.mnt)
    holds("transport=ring: CPU " in message and "may not be used" in message, message)
    holds(not lab.is_mounted(t.mnt), "mounted in spite of the error")


def test_any_number_of_requests_that_wait_hold_up_nobody_else(t):
    definition = fresh(t)
    t.mount(definition)
    data = os.urandom(MiB)
    (t.mnt / "other").open("r+b", buffering=0).write(data)
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    volfs("map", "suspend", t.mnt / "data")
    # More than the entries of all queues together.
    count = 40 * (os.cpu_count() or 1)
    threads, results = in_threads(
        count, lambda i: direct_read(t.mnt / "data", i * 4096 % MiB, 4096))
    for i in range(200):
        equal(direct_read(t.mnt / "other", i * 4096 % MiB, 4096),
              data[i * 4096 % MiB:][:4096], "another volume")
    equal(results, [None] * count, "results while suspended")
    volfs("map", "resume", t.mnt / "data")
    join(threads)
    for i, result in enumerate(results):
        equal(result, data[i * 4096 % MiB:][:4096], f"read {i}")
    t.umount()


def test_whoever_waits_for_events_is_interrupted_however_early(t):
    t.mount(fresh(t))
    events = t.mnt / ".volfs/events"

    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm
    before = signal.signal(signal.SIGALRM, ring)
    fd = os.open(events, os.O_RDONLY)
    release = threading.Timer(60, volfs, ("map", "suspend", t.mnt / "data"))  # so that a failure ends
    release.start()
    try:
        for _ in range(300):
            begun = time.monotonic()
            try:
                # Again if Python took the first one before it called read(); a read that is in the
                # kernel is interrupted once only.
                signal.setitimer(signal.ITIMER_REAL, t.random.uniform(10e-6, 300e-6), 0.1)
                os.read(fd, 4096)
            except Alarm:
                pass
            holds(time.monotonic() - begun < 20, "a signal was lost")
        for _ in range(100):
            signal.setitimer(signal.ITIMER_REAL, 0)
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                try:
                    signal.setitimer(signal.ITIMER_REAL, t.random.uniform(10e-6, 300e-6))
                    os.read(fd, 4096)
                finally:
                    os._exit(1)
            lab.wait_until(lambda: os.waitpid(child, os.WNOHANG)[0] == child, "the end of a killed reader")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        release.cancel()
        os.close(fd)
    t.umount()


def test_any_number_of_followers_leaves_the_control_file_free(t):
    t.mount(fresh(t))
    count = 20 * (os.cpu_count() or 1)
    fds = [os.open(t.mnt / ".volfs/events", os.O_RDONLY) for _ in range(count)]
    threads, results = in_threads(count, lambda i: os.read(fds[i], 4096))
    equal(t.status()["transport"], "io_uring" if lab.TRANSPORT == "ring" else "threads", "transport")
    volfs("map", "suspend", t.mnt / "data")
    join(threads)
    for result in results:
        holds(b"map.suspended" in result, repr(result))
    volfs("map", "resume", t.mnt / "data")
    for fd in fds:
        os.close(fd)
    t.umount()


def connection_of(mnt):
    lab.need_root()
    run("mount", "-t", "fusectl", "none", CONNECTIONS, status=None)
    path = CONNECTIONS / str(os.minor(os.stat(mnt).st_dev))
    if not path.exists():
        raise Skip("no fusectl file system here")
    return path


def test_an_aborted_connection_ends_requests_and_the_daemon(t):
    definition = fresh(t)
    for suspended in (False, True):
        t.mount(definition)
        pid = t.pid()
        connection = connection_of(t.mnt)
        if suspended:
            volfs("map", "suspend", t.mnt / "data")

        def forever(i, name="data"):
            fd = os.open(t.mnt / name, os.O_RDWR | os.O_DIRECT)
            page = mmap.mmap(-1, 64 * KiB)
            while True:
                os.pwritev(fd, [page], i * 64 * KiB)
                os.preadv(fd, [page], i * 64 * KiB)
        threads, results = in_threads(12, forever)
        threading.Event().wait(0.5)
        (connection / "abort").write_text("1")
        join(threads)
        for result in results:
            holds(isinstance(result, OSError) and result.errno in (errno.ECONNABORTED, errno.ENOTCONN,
                                                                   errno.EIO), repr(result))
        if suspended:
            os.kill(pid, signal.SIGTERM)  # lets go what waits for the map
        lab.wait_until(lambda: ended(pid), "the end of the daemon")
        volfs("umount", t.mnt, status=None)
        holds(not lab.is_mounted(t.mnt), "still mounted")


def ended(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def test_the_daemon_ends_under_load_in_every_way(t):
    definition = fresh(t)
    for how in ("SIGTERM", "SIGKILL", "umount -l"):
        t.mount(definition)
        pid = t.pid()
        stop = threading.Event()

        def load(i):
            fd = os.open(t.mnt / "data", os.O_RDWR | os.O_DIRECT)
            page = mmap.mmap(-1, 16 * KiB)
            try:
                while not stop.is_set():
                    os.pwritev(fd, [page], i * 16 * KiB)
                return "served"
            finally:
                os.close(fd)
        threads, results = in_threads(8, load)
        threading.Event().wait(0.3)
        if how == "umount -l":
            run("umount", "-l", t.mnt)
        else:
            os.kill(pid, getattr(signal, how))
        threading.Event().wait(0.3)
        stop.set()
        join(threads)
        if how != "SIGKILL":
            equal(results, ["served"] * 8, f"open files after {how}")
        lab.wait_until(lambda: ended(pid), f"the end of the daemon after {how}")
        volfs("umount", t.mnt, status=None)
        holds(not lab.is_mounted(t.mnt), f"still mounted after {how}")


def test_buffered_writes_gathered_by_the_kernel_reach_the_image(t):
    definition = fresh(t)
    t.mount(definition, options=["writeback_cache"])
    model = bytearray(8 * MiB)
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        with mmap.mmap(file.fileno(), 8 * MiB) as mapped:
            for _ in range(2000):
                at = t.random.randrange(8 * MiB - 5000)
                piece = t.random.randbytes(t.random.randrange(1, 5000))
                model[at:at + len(piece)] = piece
                if t.random.random() < 0.3:
                    mapped[at:at + len(piece)] = piece
                else:
                    os.pwrite(file.fileno(), piece, at)
            mapped.flush()
        os.fsync(file.fileno())
    with open(t.path / "disk0.img", "rb") as image:
        equal(image.read(8 * MiB), bytes(model), "the image after fsync")
    t.umount()


def test_an_image_without_page_cache_is_read_and_written_in_depth(t):
    lab.need_program("fio")
    definition = fresh(t, ", direct: true")
    t.mount(definition)
    run("fio", "--name=x", f"--filename={t.mnt}/data", "--direct=1", "--rw=randrw", "--bsrange=4k-256k",
        "--blockalign=4k", "--size=8m", "--ioengine=libaio", "--iodepth=32", "--verify=crc32c",
        "--verify_backlog=64", "--numjobs=1", "--loops=3", timeout=120, cwd=t.path)
    t.umount()


def test_queues_of_cpus_that_come_later_are_served(t):
    lab.need_root()
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2 or cpus[0] != 0:
        raise Skip("needs two CPUs")
    definition = fresh(t)
    online = t.path / "online"
    online.write_text("0\n")
    child = os.fork()
    if child != 0:
        equal(os.waitpid(child, 0)[1], 0, "status of the process that sees one CPU")
        return
    status = 1
    try:
        # For volfs there is CPU 0 only; the kernel sends it the requests of all.
        equal(lab.libc.unshare(0x20000), 0, "unshare(CLONE_NEWNS)")
        run("mount", "--make-rprivate", "/")
        run("mount", "--bind", online, "/sys/devices/system/cpu/online")
        t.mount(definition)
        data = os.urandom(MiB)
        (t.mnt / "data").open("r+b", buffering=0).write(data)
        volfs("map", "suspend", t.mnt / "data")

        def read(i):
            os.sched_setaffinity(0, {cpus[i % len(cpus)]})
            return direct_read(t.mnt / "data", i * 4096, 4096)
        threads, results = in_threads(60, read)
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            equal(direct_read(t.mnt / "other", 0, 4096), bytes(4096), "another volume")
        volfs("map", "resume", t.mnt / "data")
        join(threads)
        equal(b"".join(results), data[:60 * 4096], "what was read")
        t.umount()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def test_large_requests_in_depth_take_little_memory(t):
    lab.need_program("fio")
    for image in ("", ", direct: true"):
        t.mount(fresh(t, image))
        for way in ("read", "write"):
            run("fio", "--name=x", f"--filename={t.mnt}/data", "--direct=1", f"--rw={way}", "--bs=1m", "--size=8m",
                "--ioengine=libaio", "--iodepth=32", "--numjobs=4", "--time_based", "--runtime=2", timeout=60,
                cwd=t.path)
        status = pathlib.Path(f"/proc/{t.pid()}/status").read_text()
        peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
        print(f"  {peak // 1024} MiB{' without page cache' if image else ''}")
        # What is under way, 64 requests at most, and the program.
        holds(peak < (64 if not image else 96) * 1024, f"the daemon took {peak} KiB of memory")
        t.umount()


def test_allow_root_lets_in_root_and_nobody_else(t):
    lab.need_root()
    t.mount(fresh(t), options=["allow_root,mode=0666"])
    equal(len((t.mnt / "data").read_bytes()), 8 * MiB, "bytes that root reads")
    run("head", "-c1", t.mnt / "data", status=1, user=1000, group=1000, extra_groups=[])
    t.umount()


lab.main(globals())
