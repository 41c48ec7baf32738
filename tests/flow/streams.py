"""What a site's stream has told, without a stream."""

from redisrepl.engine.streamedkeys import StreamedKeys

__all__ = ["streamed"]


def streamed(offsets, history="history"):
    """The stream of this history, read from its beginning, has told of these keys by these offsets."""
    keys = StreamedKeys()
    keys.history, keys.whole_to = history, 0
    for key, offset in offsets.items():
        keys.add([key])
        keys.reached(offset)
    return keys
