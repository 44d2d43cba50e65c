# SPDX-License-Identifier: GPL-2.0-or-later
"""volfs mounts from Python: requests of the control file, the stream of events, and status.

    import volfs
    mount = volfs.Mount("/mnt")
    mount.request("map.suspend", map="scratch")
    for event in mount.events():
        print(event["event"], event.get("device"))

Nothing here but files in .volfs is used; volfs.control(5) documents them.
"""
import errno
import json
import os
import select
import time

__all__ = ["Error", "Mount", "find"]


class Error(OSError):
    """A request that was refused or failed. `errno` as of any OSError; `code` is its name, `message`
    what volfs says, and `place` the key or device that it speaks of."""

    def __init__(self, code, number, message, place=""):
        super().__init__(number, message)
        self.code, self.message, self.place = code, message, place

    def __str__(self):
        return self.message


def find(path):
    """The mount that PATH, a volume's file or anything else below it, lies in."""
    folder = os.path.realpath(path)
    while True:
        if os.path.exists(os.path.join(folder, ".volfs", "control")):
            return Mount(folder)
        parent = os.path.dirname(folder)
        if parent == folder:
            raise FileNotFoundError(errno.ENOENT, "not on a volfs mount", path)
        folder = parent


class Mount:
    """One mount. May be used by many threads: each request opens the control file anew."""

    def __init__(self, mountpoint):
        self.mountpoint = os.fspath(mountpoint)

    def path(self, name):
        """The path of a file in .volfs."""
        return os.path.join(self.mountpoint, ".volfs", name)

    def volume(self, name):
        """The path of a volume's file."""
        return os.path.join(self.mountpoint, name)

    def raw(self, request):
        """Sends the bytes of one request and returns those of its reply."""
        control = os.open(self.path("control"), os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.write(control, request) != len(request):
                raise OSError(errno.EMSGSIZE, "the request is too long")
            reply = bytearray()
            while piece := os.read(control, 1 << 16):
                reply += piece
            return bytes(reply)
        finally:
            os.close(control)

    def request(self, name, /, **keys):
        """Sends a request and returns its result; raises Error. Keys that are None are left out."""
        body = {"request": name}
        body.update((key, value) for key, value in keys.items() if value is not None)
        reply = json.loads(self.raw(json.dumps(body).encode()))
        if reply["ok"]:
            return reply["result"]
        error = reply["error"]
        raise Error(error["code"], error["errno"], error["message"], error["place"])

    def status(self):
        """Everything there is to know, as volfs.control(5) says of `status`."""
        return self.request("status")

    def device(self, name):
        """The entry of one device in the status; KeyError if there is none of the name."""
        for device in self.status()["devices"]:
            if device["name"] == name or device.get("volume") == name:
                return device
        raise KeyError(name)

    def requests(self):
        """A JSON Schema of each request, by name."""
        return self.request("mount.requests")

    def events(self):
        """The events from now on; see Events."""
        return Events(self.path("events"))

    def metrics(self):
        """The text of .volfs/metrics."""
        with open(self.path("metrics")) as file:
            return file.read()


class Events:
    """The stream of events from the moment it was made: an iterator of dictionaries that waits, and
    ends when the mount ends. `fileno()` is for select and poll; `next_within(seconds)` gives up then
    and returns None."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._lines = []
        self._part = b""
        self.ended = False

    def fileno(self):
        return self._fd

    def close(self):
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __iter__(self):
        return self

    def __next__(self):
        event = self.next_within(None)
        if event is None:
            raise StopIteration
        return event

    def _fill(self):
        try:
            text = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        self.ended = not text
        *lines, self._part = (self._part + text).split(b"\n")
        self._lines += lines

    def next_within(self, seconds):
        if self._fd < 0 and not self._lines:
            return None
        deadline = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._lines:
            if self.ended:
                self.close()
                return None
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left) and deadline is not None:
                return None
            self._fill()
        return json.loads(self._lines.pop(0))
