"""Memory that holds nothing goes back to the system."""

import ctypes
import gc
import weakref

from redisrepl.memory import clear_away, give_back, left_over, resident

SIZE = 1000  # of a block: above what Python keeps in arenas of its own, below what gets a mapping of its own
COUNT = 100_000


def test_what_was_freed_in_the_middle_of_the_heap_is_given_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(SIZE) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    full = resident()
    for block in blocks[:-1]:
        libc.free(block)
    give_back()
    assert full - resident() > 0.8 * SIZE * COUNT
    libc.free(blocks[-1])


class Node:
    """What can be in a cycle."""


def test_what_a_refused_reply_has_left_is_cleared_away_once():
    clear_away()  # what tests before it in this process owe
    gc.collect()
    gc.disable()
    try:
        node = Node()
        node.itself = node
        gone = weakref.ref(node)
        del node
        assert not clear_away()
        left_over()
        assert clear_away()
        assert gone() is None
        assert not clear_away()
    finally:
        gc.enable()
