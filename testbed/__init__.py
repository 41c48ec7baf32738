"""Real servers for tests, demonstrations and benchmarks: a site's Redis, a hub, and the network between them.

In: what is installed on the machine. Out: servers on free loopback ports, ready when `start` returns, gone when the
test run is. Left to others: what to do with them.
"""

from testbed.certificates import Certificates, KeyPair
from testbed.daemon import Daemon, DaemonEndedError
from testbed.fault_proxy import Counters, FaultProxy
from testbed.http_proxy import HttpProxy
from testbed.hub import Hub
from testbed.nginx import Nginx
from testbed.ports import free_port, release_port
from testbed.redis_sentinel import RedisSentinel
from testbed.redis_server import RedisServer
from testbed.server import Server, ServerFailedError
from testbed.small_disk import SmallDisk
from testbed.waiting import eventually, eventually_async
from testbed.webdis import Webdis
from testbed.websocket_webdis import WebSocketWebdis

__all__ = [
    "Certificates",
    "Counters",
    "Daemon",
    "DaemonEndedError",
    "FaultProxy",
    "HttpProxy",
    "Hub",
    "KeyPair",
    "Nginx",
    "RedisSentinel",
    "RedisServer",
    "Server",
    "ServerFailedError",
    "SmallDisk",
    "WebSocketWebdis",
    "Webdis",
    "eventually",
    "eventually_async",
    "free_port",
    "release_port",
]
