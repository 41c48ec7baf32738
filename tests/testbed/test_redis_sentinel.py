"""Redis Sentinel."""

from testbed import RedisSentinel, RedisServer, eventually


def test_it_names_the_master_and_fails_over_on_demand():
    with RedisServer() as master, RedisServer(replica_of=master) as replica, RedisSentinel(master) as sentinel:
        assert sentinel.master_port == master.port
        eventually(lambda: sentinel.replica_ports() == [replica.port])
        assert sentinel.fail_over() == replica.port
        eventually(lambda: replica.client().info("replication")["role"] == "master")


def test_it_fails_over_when_the_master_dies():
    with RedisServer() as master, RedisServer(replica_of=master) as replica, RedisSentinel(master) as sentinel:
        eventually(lambda: sentinel.replica_ports() == [replica.port])
        master.kill()
        eventually(lambda: sentinel.master_port == replica.port, timeout=30)
