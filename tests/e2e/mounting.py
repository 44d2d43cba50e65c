# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounting and unmounting in every way there is, and what is said when it does not work."""
import ctypes
import os
import pathlib
import signal
import socket
import stat
import subprocess
import time

import lab
from lab import MiB, Skip, equal, holds, run, stderr_of, volfs

DEFINITION = """
volfs: 1
images:
  disk0: {path: disk0.img, size: 4MiB}
maps:
  data: {table: "0 8192 linear disk0 0"}
"""
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


def fresh(t, extra=""):
    definition = t.define(DEFINITION + extra)
    t.file("disk0.img", 4 * MiB)
    t.cleanup.callback(t.take_off, t.mnt)
    return definition


def gone(pid):
    """Whether a process has ended. The daemon's parent is init, which reaps it when it likes."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def wait_gone(pid):
    lab.wait_until(lambda: gone(pid), f"the end of the daemon {pid}")


def put(t, data=b"kept"):
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        file.write(data)


def image(t):
    return (t.path / "disk0.img").read_bytes()


def with_helper(t, script, status=0):
    """Runs SCRIPT where mount(8) finds our helper: in a mount namespace with a /sbin of its own,
    so that the machine stays as it is. The lab's mounts are shared with us, to be looked at."""
    lab.need_root()
    lab.need_program("unshare", "mount")
    own = t.path / "sbin"
    own.mkdir(exist_ok=True)
    for name in ("mount.volfs", "mount.fuse.volfs", "umount.volfs", "umount.fuse.volfs"):
        link = own / name
        if not link.is_symlink():
            link.symlink_to(os.path.abspath(lab.VOLFS))
    sbin = os.path.realpath("/sbin")
    setup = (f"set -e; mkdir -p {t.path}/upper {t.path}/work; "
             f"mount -t overlay overlay -o lowerdir={own}:{sbin} {sbin}; set +e; ")
    done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", setup + script],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=120)
    if "overlay" in done.stderr:
        raise Skip(f"no overlay mounts here: {done.stderr.strip()}")
    if done.returncode != status:
        raise lab.Failed(f"exit status {done.returncode}, expected {status}: {script}\n"
                         f"{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def test_mount_8_by_both_types_and_all_options_of_fstab(t):
    definition = fresh(t)
    many = ("rw,dev,suid,exec,auto,nofail,_netdev,noatime,nodiratime,lazytime,iversion,nosymfollow,"
            "nouser,async,comment=hello,user=root,"
            "x-systemd.automount,x-systemd.requires=/tmp,X-mount.mkdir")
    for kind in ("volfs", "fuse.volfs"):
        out = with_helper(t, f"""
            mount -t {kind} {definition} {t.mnt} -o {many} || exit 90
            printf {kind} > {t.mnt}/data || exit 91
            grep ' {t.mnt} fuse.volfs rw,' /proc/mounts | grep -q noatime || exit 92
            umount {t.mnt}""")
        equal(out, "", "what mount and umount say")
        equal(users_of(t.path / "disk0.img"), [], "daemons after umount")
        equal(image(t)[:5], kind[:5].encode(), "the image")
    (t.path / "fstab").write_text(f"{definition} {t.mnt} volfs {many},mode=0640 0 0\n"
                                  f"{definition} {t.path}/none volfs noauto 0 0\n")
    with_helper(t, f"mount -a -T {t.path}/fstab && stat -c %a {t.mnt}/data | grep -q 640 && "
                   f"{lab.VOLFS} umount {t.mnt}")
    for each in ("relatime", "norelatime", "strictatime", "nostrictatime", "atime", "diratime",
                 "nolazytime", "noiversion", "sync", "dirsync", "noexec", "nodev", "nosuid"):
        run(lab.VOLFS, "mount", definition, t.mnt, "-o", each)
        run(lab.VOLFS, "umount", t.mnt)


def test_a_file_system_on_a_volume_that_fstab_mounts(t):
    lab.need_loop()
    lab.need_program("mkfs.ext4", "e2fsck")
    definition = t.define("volfs: 1\nimages: {d: {path: d.img, size: 64MiB}}\n"
                          "maps: {data: {table: 0 131072 linear d 0}}\n")
    volfs("create", definition)
    (t.path / "fstab").write_text(f"{definition} {t.mnt} volfs noauto,nofail,x-systemd.automount 0 0\n")
    tree, fs = os.path.dirname(os.path.abspath(lab.__file__)), t.path / "fs"
    fs.mkdir()
    with_helper(t, f"""
        set -e
        mount -T {t.path}/fstab {t.mnt}
        loop=$(losetup -f --show {t.mnt}/data)
        mkfs.ext4 -q $loop && mount $loop {fs}
        cp -r {tree} {fs}/tree
        umount {fs} && losetup -d $loop && umount {t.mnt}""")
    lab.wait_until(lambda: not users_of(t.path / "d.img"), "the daemon's end")
    with_helper(t, f"""
        set -e
        mount -T {t.path}/fstab {t.mnt}
        loop=$(losetup -f --show {t.mnt}/data)
        e2fsck -fn $loop && mount $loop {fs}
        diff -r {tree} {fs}/tree
        umount {fs} && losetup -d $loop && umount {t.mnt}""")


def users_of(path):
    """Processes that have PATH open."""
    path, found = str(path), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") == path for fd in os.listdir(f"/proc/{pid}/fd")):
                found.append(int(pid))
        except OSError:
            pass
    return found


def test_the_helpers_exit_statuses_are_mount_8s(t):
    definition = fresh(t)
    helper = t.path / "mount.volfs"
    helper.symlink_to(os.path.abspath(lab.VOLFS))
    run(helper, definition, t.mnt, "-o", "ro,nofail", "-n", "-v")
    lab.raises(30, os.open, t.mnt / "data", os.O_RDWR)
    t.umount()
    run(helper, "-f", definition, t.mnt)
    holds(not lab.is_mounted(t.mnt), "a fake mount mounted")
    for status, arguments, expected in [
            (1, [definition], "Usage: mount.volfs"),
            (1, [definition, t.mnt, "-o", "nonsense"], "unknown mount option 'nonsense'"),
            (1, [definition, t.mnt, "-o", "remount,ro"], "'remount': a mount is not changed"),
            (1, [t.path / "none.yaml", t.mnt], "none.yaml: No such file or directory"),
            (32, [definition, t.path / "none"], "none: mount point: No such file or directory")]:
        message = stderr_of(helper, *arguments, status=status)
        holds(expected in message, f"message {message!r} says nothing of {expected!r}")
    run(helper, "-s", definition, t.mnt, "-o", "nonsense")
    t.umount()


def test_every_way_to_unmount(t):
    definition = fresh(t)
    lab.need_program("fusermount3", "umount")
    ways = [[lab.VOLFS, "umount"], ["fusermount3", "-u"]]
    if os.geteuid() == 0:
        ways += [["umount"]]
    for i, way in enumerate(ways):
        t.mount(definition)
        pid = t.pid()
        put(t, b"way%d" % i)
        run(*way, t.mnt)
        holds(not lab.is_mounted(t.mnt), f"still mounted after {way}")
        if way[0] == lab.VOLFS:
            holds(gone(pid), "the daemon lives after volfs umount")
        wait_gone(pid)
        equal(image(t)[:4], b"way%d" % i, "the image")
    # Lazily: gone from the tree at once, alive for those who have a file open.
    for way in ways:
        t.mount(definition)
        pid = t.pid()
        with open(t.mnt / "data", "r+b", buffering=0) as file:
            run(*way, "-l" if "fuse" not in way[0] else "-z", t.mnt)
            holds(not lab.is_mounted(t.mnt), f"still mounted after {way}")
            file.write(b"lazy")
            os.fsync(file.fileno())
            equal(image(t)[:4], b"lazy", "the image, written through an open file")
        wait_gone(pid)


def test_signals_flush_and_unmount(t):
    definition = fresh(t)
    for number in (signal.SIGTERM, signal.SIGINT):
        t.mount(definition)
        pid = t.pid()
        put(t, number.name.encode())
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, number)
        wait_gone(pid)
        holds(not lab.is_mounted(t.mnt), f"still mounted after {number.name}")
        equal(image(t)[:6], number.name[:6].encode(), "the image")


def test_signals_take_off_nothing_but_the_own_mount(t):
    lab.need_root()
    lab.need_program("mount", "umount")
    definition = fresh(t)
    # Taken off already, and something else is at its place.
    t.mount(definition)
    pid = t.pid()
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        run("umount", "-i", "-l", t.mnt)
        run("mount", "-t", "tmpfs", "other", t.mnt)
        (t.mnt / "there").touch()
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.5)
        holds((t.mnt / "there").exists(), "another file system was unmounted")
        file.write(b"open")
    wait_gone(pid)
    holds((t.mnt / "there").exists(), "another file system was unmounted at the end")
    equal(image(t)[:4], b"open", "the image")
    run("umount", t.mnt)
    # Covered by something else: that stays, and the signal works when it has gone.
    t.mount(definition)
    pid = t.pid()
    run("mount", "-t", "tmpfs", "other", t.mnt)
    (t.mnt / "there").touch()
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    holds((t.mnt / "there").exists(), "what covers the mount was unmounted")
    run("umount", t.mnt)
    put(t, b"seen")
    os.kill(pid, signal.SIGINT)
    wait_gone(pid)
    holds(not lab.is_mounted(t.mnt), "still mounted")
    equal(image(t)[:4], b"seen", "the image")
    # Moved away, and something else is at its place.
    lab.need_program("unshare")
    moved = t.path / "moved"
    moved.mkdir()
    script = f"""set -e
        {lab.VOLFS} mount {definition} {t.mnt}
        pid=$(grep -o '"pid": *[0-9]*' {t.mnt}/.volfs/status.json | grep -o '[0-9]*$')
        mount --move {t.mnt} {moved}
        mount -t tmpfs other {t.mnt}
        printf move > {moved}/data
        kill $pid
        for i in $(seq 600); do mountpoint -q {moved} || break; sleep 0.1; done
        ! mountpoint -q {moved}
        mountpoint -q {t.mnt}
        echo $pid"""
    pid = int(run("unshare", "-m", "--propagation", "private", "sh", "-c", script))
    wait_gone(pid)
    equal(image(t)[:4], b"move", "the image")


def test_a_mount_waits_for_a_daemon_that_is_still_writing(t):
    lab.need_root()
    definition = fresh(t)
    t.mount(definition)
    pid = t.pid()
    put(t, b"soon")
    os.kill(pid, signal.SIGSTOP)
    t.cleanup.callback(lambda: gone(pid) or os.kill(pid, signal.SIGCONT))
    equal(lab.libc.umount2(str(t.mnt).encode(), 0), 0, "umount2")
    second = subprocess.Popen([lab.VOLFS, "mount", definition, t.mnt], stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    os.kill(pid, signal.SIGCONT)
    message = second.communicate(timeout=60)[1]
    equal((second.returncode, message), (0, ""), "the second mount")
    equal((t.mnt / "data").read_bytes()[:4], b"soon", "what was written before")
    holds(t.pid() != pid, "the first daemon serves")


def start_foreground(t, definition, *arguments, env=None):
    process = subprocess.Popen([lab.VOLFS, "mount", "-f", *arguments, definition, t.mnt],
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **(env or {})})
    t.cleanup.callback(lambda: process.poll() is None and (process.kill(), process.wait()))
    lab.wait_until(lambda: lab.is_mounted(t.mnt) or process.poll() is not None, "the mount")
    return process


def test_in_the_foreground(t):
    definition = fresh(t)
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start_foreground(t, definition)
        put(t)
        equal(t.pid(), process.pid, "process that serves")
        process.send_signal(number)
        equal(process.wait(60), 0, f"exit status after {number.name}")
        equal(process.stderr.read(), "", "messages")
        holds(not lab.is_mounted(t.mnt), "still mounted")
    process = start_foreground(t, definition)
    t.umount()
    equal(process.wait(60), 0, "exit status after umount")
    # An open file does not keep a signal from ending the mount; it is served to its end.
    process = start_foreground(t, definition)
    with open(t.mnt / "data", "r+b", buffering=0) as file:
        process.terminate()
        lab.wait_until(lambda: not lab.is_mounted(t.mnt), "the unmount")
        file.write(b"last")
    equal(process.wait(60), 0, "exit status")
    said = process.stderr.read()
    holds(f"{t.mnt}: in use by " in said and f"(pid {os.getpid()})" in said, f"who keeps it from ending: {said}")
    equal(image(t)[:4], b"last", "the image")


def test_the_service_manager_is_told(t):
    definition = fresh(t)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(t.path / "notify"))
        notify.settimeout(60)
        process = start_foreground(t, definition, env={"NOTIFY_SOCKET": str(t.path / "notify")})
        holds(b"READY=1" in notify.recv(4096), "READY=1 was not the first word")
        holds((t.mnt / "data").exists(), "ready before the files are there")
        process.terminate()
        holds(b"STOPPING=1" in notify.recv(4096), "STOPPING=1 was not the next word")
        equal(process.wait(60), 0, "exit status")


def test_messages_of_the_daemon_reach_the_system_log(t):
    lab.need_root()
    log = pathlib.Path("/dev/log")
    if log.exists():
        raise Skip("there is a system log here, which the test does not take over")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(log))
    t.cleanup.callback(log.unlink)
    t.cleanup.callback(listener.close)
    listener.settimeout(60)
    definition = fresh(t)
    t.mount(definition)
    (t.path / "disk0.img").unlink()
    with open(t.mnt / "data", "r+b", buffering=0) as volume:
        volume.write(b"x")
    message = listener.recv(4096)
    # LOG_DAEMON and LOG_WARNING.
    holds(message.startswith(b"<28>"), f"log {message}")
    holds(b"volfs[%d]: " % t.pid() in message and b"disk0.img: the file was removed" in message,
          f"log {message}")
    t.umount()


def test_nothing_of_the_caller_is_kept(t):
    definition = fresh(t)
    # A pipeline ends only when nobody holds its pipe.
    run("sh", "-c", f"{lab.VOLFS} mount {definition} {t.mnt} 2>&1 | cat", timeout=60)
    pid = t.pid()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        holds(not target.startswith("pipe:"), f"the daemon keeps {target} as {fd}")
    equal(os.readlink(f"/proc/{pid}/cwd"), "/", "working directory of the daemon")
    status = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    equal(int(status[3]), pid, "session of the daemon")
    t.umount()
    # Without any standard streams.
    run("sh", "-c", f"exec {lab.VOLFS} mount {definition} {t.mnt} <&- >&- 2>&-")
    put(t, b"closed")
    equal(t.status()["devices"][0]["name"], "disk0", "status")
    run("sh", "-c", f"exec {lab.VOLFS} umount {t.mnt} <&- >&- 2>&-")
    equal(image(t)[:6], b"closed", "the image")


def test_errors_before_it_is_ready(t):
    definition = fresh(t)
    (t.path / "file").touch()
    (t.path / "bad.yaml").write_text("volfs: 1\nimages:\n  a: {path: no.img}\nmaps:\n"
                                     "  m: {table: '0 8 linear a 0'}\n")
    (t.path / "wrong.yaml").write_text("volfs: 1\nmaps:\n  m: {table: '0 8 linear b 0'}\n")
    for status, arguments, expected in [
            (1, [definition, t.path / "none"], "none: mount point: No such file or directory"),
            (1, [definition, t.path / "file"], "file: mount point: Not a directory"),
            (1, [t.path / "bad.yaml", t.mnt], "bad.yaml:3:"),
            (2, [t.path / "wrong.yaml", t.mnt], "wrong.yaml:3:"),
            (2, [t.path / "none.yaml", t.mnt], "none.yaml: No such file or directory"),
            (2, ["-o", "nonsense", definition, t.mnt], "unknown mount option 'nonsense'"),
            (2, ["-o", "mode=9", definition, t.mnt], "expected permission bits in octal"),
            (2, ["-o", "threads=0", definition, t.mnt], "expected a number from 1 to 64"),
            (2, ["-o", "uid=nosuchuser", definition, t.mnt], "nosuchuser"),
            (2, [definition], "MOUNTPOINT"),
            (2, ["--nonsense", definition, t.mnt], "--nonsense")]:
        message = stderr_of(lab.VOLFS, "mount", *arguments, status=status)
        holds(expected in message, f"{arguments}: {message!r} says nothing of {expected!r}")
        equal(message.count("no such device"), 0, "follow-up errors of a first cause")
        holds(not lab.is_mounted(t.mnt), "mounted in spite of an error")
        equal(users_of(t.path / "disk0.img"), [], "processes left behind")


def test_a_busy_mount_point_and_busy_images(t):
    definition = fresh(t)
    second = t.path / "second"
    second.mkdir()
    t.mount(definition)
    message = stderr_of(lab.VOLFS, "mount", definition, t.mnt)
    holds(f"{t.mnt}: volfs is already mounted here" in message, message)
    message = stderr_of(lab.VOLFS, "mount", definition, second)
    holds("disk0.img: in use by another program" in message, message)
    message = stderr_of(lab.VOLFS, "mount", "-o", "ro", definition, second)
    holds("disk0.img: another program is writing to it" in message, message)
    with open(t.mnt / "data", "rb"):
        message = stderr_of(lab.VOLFS, "umount", t.mnt)
        holds(f"{t.mnt}: in use" in message, message)
    message = stderr_of(lab.VOLFS, "umount", t.mnt, cwd=t.mnt)
    holds(f"{t.mnt}: in use" in message, message)
    message = stderr_of(lab.VOLFS, "umount", t.mnt / "data")
    holds("not a mount point" in message, message)
    message = stderr_of(lab.VOLFS, "umount", second)
    holds("not on a volfs mount" in message, message)
    t.umount()
    # Readers share.
    t.mount(definition, options=["ro"])
    t.mount(definition, mnt=second, options=["ro"])
    equal((second / "data").read_bytes(), (t.mnt / "data").read_bytes(), "data of two readers")
    third = t.path / "third"
    third.mkdir()
    message = stderr_of(lab.VOLFS, "mount", definition, third)
    holds("disk0.img: in use" in message, message)


def test_the_mount_of_a_daemon_that_was_killed(t):
    definition = fresh(t)
    t.mount(definition)
    pid = t.pid()
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    for command in (["mount", definition, t.mnt], ["status", t.mnt],
                    ["map", "table", t.mnt / "data"]):
        message = stderr_of(lab.VOLFS, *command)
        holds(f"`volfs umount {t.mnt}`" in message, f"{command}: {message!r} does not say the way out")
    message = stderr_of(lab.VOLFS, "umount", t.mnt, status=0)
    holds("removed a mount whose daemon had ended" in message, message)
    holds(not lab.is_mounted(t.mnt), "the stale mount is still there")
    t.mount(definition)


def test_read_only_in_every_way(t):
    definition = fresh(t)
    before = image(t)
    os.chmod(t.path / "disk0.img", 0o444)
    reading = t.define(DEFINITION.replace("volfs: 1", "volfs: 1\nreadonly: true"), "ro.yaml")
    disk = t.define(DEFINITION.replace("size: 4MiB}", "size: 4MiB, readonly: true}")
                    .replace("{table", "{readonly: true, table"), "disk.yaml")
    for source, options in ((definition, ["ro"]), (definition, ["rw", "ro"]), (reading, []),
                            (disk, [])):
        t.mount(source, options=options)
        lab.raises(30, os.open, t.mnt / "data", os.O_RDWR)
        lab.raises(30, os.open, t.mnt / "data", os.O_RDONLY | os.O_TRUNC)
        equal((t.mnt / "data").read_bytes()[:4], b"\0\0\0\0", "data")
        t.umount()
    os.chmod(t.path / "disk0.img", 0o644)
    t.mount(reading, options=["rw"])
    put(t)
    t.umount()
    holds(image(t) != before, "rw did not win over the definition")


def test_relative_paths(t):
    definition = fresh(t)
    deep = t.path / "deep"
    deep.mkdir()
    run(os.path.abspath(lab.VOLFS), "mount", "../lab.yaml", "../mnt", cwd=deep)
    put(t)
    run(os.path.abspath(lab.VOLFS), "umount", "../mnt", cwd=deep)
    equal(image(t)[:4], b"kept", "the image")
    link = deep / "link.yaml"
    link.symlink_to(definition)
    (deep / "odd, name\\ ü").mkdir()
    t.mount(definition, mnt=deep / "odd, name\\ ü")
    run(lab.VOLFS, "umount", deep / "odd, name\\ ü")


def as_user(*command, status=0, **user):
    return run(*command, status=status, **(user or NOBODY))


def test_owner_and_mode_decide_who_may_what(t):
    lab.need_root()
    definition = fresh(t, 'expose: {mode: "0640", owner: 65534, group: 1}\n')
    t.mount(definition, options=["allow_other"])
    seen = (t.mnt / "data").stat()
    equal((stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid), (0o640, 65534, 1), "attributes")
    control = t.mnt / ".volfs/control"
    for user, may_read, may_write in [((65534, 65534), True, True), ((1000, 1), True, False),
                                      ((1000, 1000), False, False)]:
        options = {"user": user[0], "group": user[1], "extra_groups": []}
        as_user("head", "-c1", t.mnt / "data", status=0 if may_read else 1, **options)
        for path in (t.mnt / "data", control):
            as_user("sh", "-c", f': >>"{path}"', status=0 if may_write else 2, **options)
    t.umount()
    t.mount(definition, options=["allow_other,uid=1000,gid=1000,mode=0600"])
    seen = (t.mnt / "data").stat()
    equal((stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid), (0o600, 1000, 1000),
          "attributes by options")
    equal(stat.S_IMODE(t.mnt.stat().st_mode), 0o700, "mode of the directory")
    as_user("head", "-c1", t.mnt / "data", status=1)
    as_user("head", "-c1", t.mnt / "data", user=1000, group=1000, extra_groups=[])
    t.umount()
    # Without allow_other nobody else even looks in.
    t.mount(definition, options=["mode=0666"])
    as_user("ls", t.mnt, status=2)


def test_as_an_ordinary_user(t):
    lab.need_program("fusermount3")
    definition = fresh(t)
    user = t.ordinary_user()
    if not user:
        raise Skip("needs root, to become an ordinary user")
    os.chown(t.path / "disk0.img", 65534, 65534)
    t.mount(definition, **user)
    as_user("sh", "-c", f"printf mine >{t.mnt}/data && cat {t.mnt}/.volfs/table")
    seen = as_user("stat", "-c", "%u %a", t.mnt / "data").split()
    equal(seen, ["65534", "660"], "owner and mode")
    as_user(lab.VOLFS, "umount", t.mnt)
    equal(image(t)[:4], b"mine", "the image")
    # What is another's, and what is in use, is said so.
    t.mount(definition, options=["allow_other"])
    equal(stderr_of(lab.VOLFS, "umount", t.mnt, **user),
          f"volfs: {t.mnt}: cannot be unmounted: it was mounted by user 0\n", "umount of root's mount")
    t.umount()
    t.mount(definition, **user)
    message = as_user("sh", "-c", f"exec 3<{t.mnt}/data; {lab.VOLFS} umount {t.mnt} 2>&1 || true")
    holds("in use" in message, message)
    as_user(lab.VOLFS, "umount", t.mnt)
    conf = pathlib.Path("/etc/fuse.conf")
    if not conf.exists() or "\nuser_allow_other" not in "\n" + conf.read_text():
        message = stderr_of(lab.VOLFS, "mount", "-o", "allow_other", definition, t.mnt, **user)
        holds("user_allow_other" in message and "/etc/fuse.conf" in message, message)
    # Root, whom the mount does not answer, unmounts as its owner, and so waits for all of it.
    t.mount(definition, **user)
    as_user("sh", "-c", f"printf root >{t.mnt}/data")
    equal(stderr_of(lab.VOLFS, "umount", t.mnt, status=0), "", "what root is told")
    equal(users_of(t.path / "disk0.img"), [], "daemons after root's umount")
    holds(not lab.is_mounted(t.mnt), "root could not unmount")
    equal(image(t)[:4], b"root", "the image")
    os.chmod(t.path / "disk0.img", 0o400)
    os.chown(t.path / "disk0.img", 0, 0)
    message = stderr_of(lab.VOLFS, "mount", definition, t.mnt, **user)
    holds("disk0.img: open for writing: Permission denied" in message, message)
    os.chown(t.mnt, 0, 0)
    os.chown(t.path / "disk0.img", 65534, 65534)
    message = stderr_of(lab.VOLFS, "mount", definition, t.mnt, **user)
    holds("a mount point must be writable for the user who mounts" in message, message)


def test_help_has_examples_and_wrong_usage_ends_with_2(t):
    commands = [["mount"], ["umount"], ["check"], ["create"], ["status"], ["tree"], ["where"], ["map"]]
    commands += [["map", each] for each in ("create", "load", "clear", "suspend", "resume", "remove",
                                            "rename", "message", "table", "status")]
    for command in commands:
        holds("Examples:" in volfs(*command, "--help"), f"{command} --help has no examples")
        holds(stderr_of(lab.VOLFS, *command, "--nonsense", status=2), f"{command}: nothing is said")
    message = stderr_of(lab.VOLFS, "frob", status=2)
    holds("frob" in message, f"an unknown command: {message!r}")
    stderr_of(lab.VOLFS, status=2)
    # No fifo keeps a check waiting.
    os.mkfifo(t.path / "fifo")
    definition = t.define("volfs: 1\nimages:\n  a: {path: fifo}\nmaps:\n  m: {table: '0 8 linear a 0'}\n")
    message = stderr_of(lab.VOLFS, "check", definition, status=2, timeout=30)
    holds("fifo: " in message, message)


def test_one_file_under_two_names_is_refused(t):
    (t.path / "a.img").write_bytes(bytes(1 * lab.MiB))
    os.symlink("a.img", t.path / "soft.img")
    os.link(t.path / "a.img", t.path / "hard.img")
    for other in ("soft.img", "hard.img", t.path / "a.img"):
        for readonly in (False, True):
            definition = t.define(f"""
volfs: 1
images:
  a: {{path: a.img, readonly: {str(readonly).lower()}}}
  b: {{path: {other}, readonly: {str(readonly).lower()}}}
maps: {{x: {{table: "0 64 linear a 0"}}, y: {{table: "0 64 linear b 0"}}}}
""")
            if readonly:
                t.mount(definition)
                t.umount()
                continue
            said = lab.stderr_of(lab.VOLFS, "mount", definition, t.mnt, status=1)
            lab.holds("is, at least in part, what the image 'a' (" in said, f"the refusal: {said}")


def test_messages_about_images_that_cannot_be_made(t):
    def refusal(images):
        return lab.stderr_of(lab.VOLFS, "create", t.define(f"volfs: 1\nimages:\n{images}"), status=1)
    second = f"  b: {{path: {t.path}/x.img, size: 2MiB}}"
    said = refusal(f"  a: {{path: x.img, size: 1MiB}}\n{second}\n")
    lab.holds(f":4:{second.index('2MiB') + 1}: the image 'b' makes " in said and "2MiB" in said and "expected the same size" in said, said)
    lab.holds(not (t.path / "x.img").exists(), "an image of a definition that was refused")
    (t.path / "small.img").write_bytes(bytes(MiB))
    said = refusal("  s: {path: small.img, size: 2MiB}\n  x: {path: x.img, size: 1MiB}\n")
    lab.holds(":3:30: s: " in said and "is smaller than that: 1048576 bytes" in said, said)
    lab.holds(not (t.path / "x.img").exists(), "an image beside one that is refused")
    said = lab.stderr_of(lab.VOLFS, "check", t.path / "lab.yaml", status=2)
    lab.holds("is smaller than that: 1048576 bytes" in said, said)
    said = refusal("  a: {path: big.img, size: 7EiB}\n")
    lab.holds(":3:28: " in said and "create with 7EiB: File too large" in said, said)
    lab.holds(not (t.path / "big.img").exists(), "the rest of an image that could not be made")


def test_the_daemon_lets_go_of_what_the_caller_had_open(t):
    definition = t.define("volfs: 1\nmaps: {m: {table: 0 8 zero}}\n")
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    run(lab.VOLFS, "mount", definition, t.mnt, close_fds=False)
    t.cleanup.callback(t.take_off, t.mnt)
    os.close(write_end)
    equal(os.read(read_end, 1), b"", "a pipe that the caller had open")
    os.close(read_end)


def test_large_volumes_in_narrow_stripes_answer_at_once(t):
    for name in ("x.img", "y.img"):
        t.file(name, 2 << 40)
    definition = t.define('volfs: 1\nimages: {x: x.img, y: y.img}\nmaps: {s: {table: "0 8589934592 striped 2 8 x 0 y 0"}}\n')
    t.mount(definition)
    begun = time.monotonic()
    with open(t.mnt / "s", "r+b") as file:
        file.write(b"x" * MiB)
    holds(os.stat(t.mnt / "s").st_blocks * 512 >= MiB, "blocks of what was written")
    t.umount()
    holds(time.monotonic() - begun < 60, "stat walked every stripe")


def test_names_that_are_on_no_mount(t):
    os.chdir(t.path)
    expected = "not on a volfs mount; expected the mount point of one, or a file below it"
    for path in ("m", "sub/m", "/nonexistent/a/b/c"):
        lab.equal(lab.stderr_of(lab.VOLFS, "where", path, 0, status=1).strip(),
                  f"volfs: '{path}': no such file, and {expected}", path)
    lab.equal(lab.stderr_of(lab.VOLFS, "where", t.path, 0, status=1).strip(), f"volfs: '{t.path}': {expected}", "a folder")


def test_a_message_is_answered_in_whole_lines(t):
    (t.path / "a.img").write_bytes(bytes(1 * lab.MiB))
    t.mount(t.define("volfs: 1\nimages: {a: a.img}\nmaps: {d: {table: '0 2048 dust a 0 512'}}\n"))
    message = lambda *words: lab.volfs("map", "message", t.mnt / "d", 0, *words)
    lab.equal(message("countbadblocks"), "countbadblocks: 0 badblock(s) found\n", "as dmsetup prints it")
    lab.equal(message("addbadblock", 5), "", "a message without an answer")
    lab.equal(message("listbadblocks"), "5\n", "an answer that has its newline")


lab.main(globals())
