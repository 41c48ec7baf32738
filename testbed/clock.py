"""A server whose clock is not that of the machine: its program behind a script that loads a small library of ours.

In: a program. Out: another one that does the same at another time. Left to others: starting it (`testbed.server`).

libfaketime does not go together with jemalloc, which redis-server is linked with on Debian: it asks for the time before
libfaketime is ready.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Self

__all__ = ["OtherClock"]

_LIBRARY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *ahead;

__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
  void *shared = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
  if (shared != MAP_FAILED) ahead = shared;
  close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *told) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (told) *told = precise.tv_sec;
  return precise.tv_sec;
}
"""


class OtherClock:
    """A clock that is so many seconds ahead (negative: behind), and can be set while the server runs."""

    def __init__(self, ahead: int = 0) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="testbed-clock-")
        self._ahead = self._path("ahead")
        self._ahead.write_bytes(bytes(8))
        source, self._library = self._path("clock.c"), self._path("clock.so")
        source.write_text(_LIBRARY)
        subprocess.run(["cc", "-O1", "-fPIC", "-shared", "-o", self._library, source], check=True)
        self.set(ahead)

    def _path(self, name: str) -> Path:
        return Path(self._directory.name, name)

    def set(self, ahead: int) -> None:
        """From now on it is so many seconds ahead."""
        with self._ahead.open("r+b") as file:
            file.write(ahead.to_bytes(8, "little", signed=True))

    def program(self, program: str) -> str:
        """The path of a script that runs this program by this clock."""
        script = self._path(Path(program).name)
        script.write_text(
            f'#!/bin/sh\nexec env LD_PRELOAD={self._library} CLOCK_AHEAD={self._ahead} {shlex.quote(program)} "$@"\n'
        )
        script.chmod(0o755)
        return str(script)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()
