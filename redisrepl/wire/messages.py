"""Parses the messages of a subscription from RESP in pieces.

In: bytes, as they are read. Out: channel and data of each message. Left to others: how they arrive (`remote.hub`),
what they mean (`remote.subscribe`).
"""

from __future__ import annotations

from collections.abc import Sequence

import hiredis

from redisrepl.errors import ProtocolError
from redisrepl.wire.resp import DAMAGED, PIECE, CommandError, RespReader, resp_size
from redisrepl.wire.walker import ELEMENT

__all__ = ["Message", "MessageReader"]

#: A channel is a key with a prefix; data is the name of an event, a canary or a message of the feed. A longer word is
#: skipped while it arrives, so that no client that may PUBLISH can fill our memory.
_LONGEST_CHANNEL = 16 << 20
_LONGEST_DATA = 256 << 10
_LARGEST_MESSAGE = 2 * _LONGEST_CHANNEL
_DATA_AT = 3  # pmessage pattern channel data

#: One message of a subscription: channel and data. On a keyspace channel the data is the name of the event.
Message = tuple[bytes, bytes]


class MessageReader:
    """Turns the bytes of a subscription into messages.

    Attributes:
        subscribed: whether the server has confirmed the subscription.
    """

    __slots__ = ("_reader", "subscribed")

    def __init__(self) -> None:
        self._reader = RespReader(_LARGEST_MESSAGE, skip=_too_long, cost=ELEMENT)
        self.subscribed = False

    def feed(self, data: bytes) -> list[Message]:
        """Parse bytes; return the messages that they complete, in the order of arrival (which means nothing).

        Raises:
            CommandError: the subscription was refused.
            ProtocolError: the framing is damaged, as Webdis does it to a slow reader.
        """
        messages: list[Message] = []
        reader = self._reader
        try:
            for start in range(0, len(data), PIECE):
                size = 0
                for item in reader.feed(data[start : start + PIECE]):
                    match item:
                        case [b"pmessage", pattern, channel, message] if type(channel) is type(message) is bytes:
                            messages.append((channel, message))
                            size += _HEAD_SIZE + resp_size(pattern) + resp_size(channel) + resp_size(message)
                        case [b"psubscribe", *_]:
                            self.subscribed = True
                            size += resp_size(item)
                        case hiredis.ReplyError():
                            raise CommandError(str(item))
                        case _:
                            raise ProtocolError("the subscription brought something that is not a message")
                if reader.sizes is None:
                    reader.taken(size)
        except DAMAGED as error:
            raise ProtocolError(f"the subscription's framing is damaged: {error}") from error
        return messages


_HEAD_SIZE = len(b"*4\r\n$8\r\npmessage\r\n")


def _too_long(items: Sequence[object], length: int) -> bool:
    """Whether to skip the next word of a message."""
    return length > (_LONGEST_DATA if len(items) == _DATA_AT else _LONGEST_CHANNEL)
