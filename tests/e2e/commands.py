"""Write commands with arguments by chance: for each name that a server lists, words that it may be called with."""

from __future__ import annotations

__all__ = ["ARGUMENTS", "LEFT_OUT", "NOT_IN_SCRIPTS", "Words", "writes"]

MEMBERS = [b"a", b"b", b"c", b"", b"\xff\r\n\x00", b"%/?+", b"10", b"m" * 70]
SCORES = [b"0", b"1", b"1.5", b"0.1", b"1e3", b"-3.7e-5", b"inf", b"-inf", b"+7", b"17179869184.000001", b"0x10"]
STRING, HASH, SET, ZSET, LIST, STREAM, GEO, PF = b"string", b"hash", b"set", b"zset", b"list", b"stream", b"geo", b"pf"

#: Commands that are not run, and why.
LEFT_OUT = {
    **dict.fromkeys(("flushall", "flushdb", "swapdb"), "of whole databases: `test_removals`, `test_hub_flushed`"),
    **dict.fromkeys(("pfdebug", "restore-asking", "migrate", "trimslots"), "of Redis itself"),
    **dict.fromkeys(("function", "cluster"), "of no key"),
    **dict.fromkeys(("xcfgset", "xidmprecord"), "of what a stream knows of its producers, which is not replicated"),
}
_OF_MODULES = "of a module: `test_opaque`; vector sets are not replicated, as their DUMP changes with each RESTORE"


class Words:
    """Words by chance.

    Args:
        rng: chance.
        prefix: of all names of keys; each side has its own, so that two do not write the same key at once.
        dumps: by type, what `DUMP` says of such a key.
        known: the commands that the server knows, so that none is given an option that came later.
    """

    def __init__(self, rng, prefix, dumps, known):
        self.rng = rng
        self._prefix = prefix
        self.known = frozenset(known)
        self.dumps = dumps

    def __call__(self, *kinds):
        """A key of one of these kinds."""
        return b"%s%s:%d" % (self._prefix, self.rng.choice(kinds), self.rng.randrange(3))

    def any(self):
        return self(STRING, HASH, SET, ZSET, LIST, STREAM)

    def number(self):
        return b"%d" % self.rng.randrange(5)

    def soon(self):
        return b"%d" % (self.rng.randrange(100, 1000) * 1000)

    def later(self):
        return b"%d" % self.rng.randrange(4_000_000_000, 5_000_000_000)

    def one_of(self, *choices):
        return self.rng.choice(choices)

    def member(self):
        return self.rng.choice(MEMBERS)

    def members(self, most=5):
        return self.rng.sample(MEMBERS, self.rng.randint(1, most))

    def scored(self, most=5):
        return [word for member in self.members(most) for word in (self.rng.choice(SCORES), member)]

    def fields(self):
        return [word for member in self.members(3) for word in (member, b"%d" % self.rng.randrange(100))]

    def id(self):
        return b"%d-%d" % (self.rng.randrange(1, 4), self.rng.randrange(5))

    def dumped(self):
        kind = self.one_of(*self.dumps)
        return [self(kind), b"0", self.dumps[kind], b"REPLACE"]


def _zadd(w):
    options = w.one_of([], [], [b"CH"], [b"NX"], [b"XX", b"CH"], [b"GT"], [b"LT", b"CH"], [b"INCR"], [b"NX", b"INCR"])
    return [w(ZSET), *options, *w.scored(1 if b"INCR" in options else 5)]


def _stored(w):
    return [w(ZSET), b"2", w(ZSET), w(ZSET, SET), *w.one_of([], [b"WEIGHTS", b"2", b"0.1"])]


def _xadd(w):
    limits = [[], [], [], [b"MAXLEN", b"~", b"3"], [b"MAXLEN", b"4"], [b"MINID", b"=", w.id()], [b"NOMKSTREAM"]]
    ids = [[b"*"], [b"*"], [w.id()], [b"99999999999999-*"]]
    if "xcfgset" in w.known:
        ids += [[b"IDMPAUTO", b"p", b"*"], [b"IDMP", b"p", w.number(), b"*"]]
    return [w(STREAM), *w.one_of(*limits), *w.one_of(*ids), *w.fields(), b"f", b"v"]


def _set(w):
    options = [[], [], [b"NX"], [b"XX", b"GET"], [b"KEEPTTL"], [b"EX", w.soon()], [b"PXAT", w.later() + b"000"]]
    if w.known & {"delex", "delifeq"}:
        options.append([b"IFEQ", w.number()])
    return [w(STRING), w.number(), *w.one_of(*options)]


def _msetex(w):
    options = w.one_of([], [b"NX"], [b"XX", b"EX", w.soon()], [b"PXAT", w.later() + b"000"], [b"KEEPTTL"])
    return [b"2", w(STRING), w.number(), w(STRING), w.number(), *options]


def _fields_named(w):
    names = w.members(3)
    return [b"FIELDS", b"%d" % len(names), *names]


def _expiring(until):
    """Of fields: a time, which may be over, a condition."""
    return lambda w: [w(HASH), w.one_of(until(w), until(w), b"0"), *w.one_of([], [b"NX"], [b"GT"]), *_fields_named(w)]


def _hsetex(w):
    conditions = w.one_of([], [], [b"FNX"], [b"FXX"])
    expiry = w.one_of([], [b"EX", w.soon()], [b"PXAT", w.later() + b"000"], [b"KEEPTTL"])
    fields = w.fields()
    return [w(HASH), *conditions, *expiry, b"FIELDS", b"%d" % (len(fields) // 2), *fields]


def _xgroup(w):
    group = w.one_of(b"g", b"g", b"g", b"h")  # most others name the first
    return w.one_of(
        [b"CREATE", w(STREAM), group, b"0", b"MKSTREAM"],
        [b"CREATE", w(STREAM), group, b"0", b"MKSTREAM"],
        [b"CREATE", w(STREAM), group, w.one_of(b"$", b"0"), b"MKSTREAM"],
        [b"CREATE", w(STREAM), group, b"$"],
        [b"SETID", w(STREAM), group, w.id()],
        [b"CREATECONSUMER", w(STREAM), group, b"c"],
        [b"DELCONSUMER", w(STREAM), group, b"c"],
        [b"DESTROY", w(STREAM), group],
    )


_WAIT = b"0.01"
_NEAR = (b"13", b"38", b"500", b"km")

#: By the name of a command: makes its arguments.
ARGUMENTS = {
    "set": _set,
    **dict.fromkeys(("setnx", "getset", "append"), lambda w: [w(STRING), w.number()]),
    **dict.fromkeys(("setex", "psetex"), lambda w: [w(STRING), w.soon(), w.number()]),
    **dict.fromkeys(("mset", "msetnx"), lambda w: [w(STRING), w.number(), w(STRING), w.number()]),
    "msetex": _msetex,
    "delex": lambda w: [w(STRING), *w.one_of([], [b"IFEQ", w.number()], [b"IFNE", w.number()])],
    "delifeq": lambda w: [w(STRING), w.number()],
    **dict.fromkeys(("incr", "decr", "getdel"), lambda w: [w(STRING)]),
    **dict.fromkeys(("incrby", "decrby", "incrbyfloat"), lambda w: [w(STRING), w.number()]),
    **dict.fromkeys(("setrange", "setbit"), lambda w: [w(STRING), w.number(), w.one_of(b"0", b"1")]),
    "bitfield": lambda w: [w(STRING), w.one_of(b"SET", b"INCRBY"), b"u8", w.number(), b"7"],
    "bitop": lambda w: [b"XOR", w(STRING), w(STRING), w(STRING)],
    "getex": lambda w: [w(STRING), *w.one_of([b"EX", b"500"], [b"PERSIST"])],
    "pfadd": lambda w: [w(PF), w.member()],
    "pfmerge": lambda w: [w(PF), w(PF)],
    **dict.fromkeys(("hset", "hmset"), lambda w: [w(HASH), *w.fields()]),
    **dict.fromkeys(("hsetnx", "hincrby", "hincrbyfloat"), lambda w: [w(HASH), w.one_of(b"n", b"m"), w.number()]),
    "hdel": lambda w: [w(HASH), b"n", *w.members(3)],
    "hsetex": _hsetex,
    "hgetex": lambda w: [w(HASH), *w.one_of([], [b"EX", w.soon()], [b"PERSIST"]), *_fields_named(w)],
    **dict.fromkeys(("hgetdel", "hpersist"), lambda w: [w(HASH), *_fields_named(w)]),
    **dict.fromkeys(("hexpire", "hpexpire"), _expiring(Words.soon)),
    "hexpireat": _expiring(Words.later),
    "hpexpireat": _expiring(lambda w: w.later() + b"000"),
    **dict.fromkeys(("sadd", "srem"), lambda w: [w(SET), *w.members()]),
    "spop": lambda w: [w(SET), *w.one_of([], [b"1"], [b"2"], [b"100"])],
    "smove": lambda w: [w(SET), w(SET), w.member()],
    **dict.fromkeys(("sinterstore", "sunionstore", "sdiffstore"), lambda w: [w(SET, SET, STRING), w(SET), w(SET)]),
    "zadd": _zadd,
    "zincrby": lambda w: [w(ZSET), w.one_of(b"1", b"0.1", b"-2.5"), w.member()],
    "zrem": lambda w: [w(ZSET), *w.members(3)],
    **dict.fromkeys(("zpopmin", "zpopmax"), lambda w: [w(ZSET), *w.one_of([], [b"2"])]),
    "zmpop": lambda w: [b"2", w(ZSET), w(ZSET), b"MIN", b"COUNT", b"2"],
    "bzmpop": lambda w: [_WAIT, b"2", w(ZSET), w(ZSET), b"MAX", b"COUNT", b"2"],
    **dict.fromkeys(("bzpopmin", "bzpopmax"), lambda w: [w(ZSET), _WAIT]),
    "zremrangebyscore": lambda w: [w(ZSET), b"-inf", b"(1"],
    "zremrangebyrank": lambda w: [w(ZSET), b"0", b"0"],
    "zremrangebylex": lambda w: [w(ZSET), b"[a", b"[a"],
    **dict.fromkeys(("zunionstore", "zinterstore"), _stored),
    "zdiffstore": lambda w: [w(ZSET), b"2", w(ZSET), w(ZSET)],
    "zrangestore": lambda w: [w(ZSET), w(ZSET), b"0", b"2"],
    "geoadd": lambda w: [w(GEO), b"13." + w.number(), b"38.1", w.member()],
    "geosearchstore": lambda w: [w(ZSET), w(GEO), b"FROMLONLAT", *_NEAR[:2], b"BYRADIUS", *_NEAR[2:]],
    "georadius": lambda w: [w(GEO), *_NEAR, w.one_of(b"STORE", b"STOREDIST"), w(ZSET)],
    "georadiusbymember": lambda w: [w(GEO), w.member(), *_NEAR[2:], b"STOREDIST", w(ZSET)],
    **dict.fromkeys(("lpush", "rpush", "lpushx", "rpushx"), lambda w: [w(LIST), *w.members()]),
    **dict.fromkeys(("lpop", "rpop"), lambda w: [w(LIST), *w.one_of([], [b"2"])]),
    "lset": lambda w: [w(LIST), w.number(), w.member()],
    "lrem": lambda w: [w(LIST), b"1", w.member()],
    "ltrim": lambda w: [w(LIST), *w.one_of([b"0", b"-2"], [b"1", b"0"])],
    "linsert": lambda w: [w(LIST), b"BEFORE", w.member(), w.member()],
    "lmove": lambda w: [w(LIST), w(LIST), b"LEFT", b"RIGHT"],
    "blmove": lambda w: [w(LIST), w(LIST), b"LEFT", b"RIGHT", _WAIT],
    "rpoplpush": lambda w: [w(LIST), w(LIST)],
    "brpoplpush": lambda w: [w(LIST), w(LIST), _WAIT],
    "lmpop": lambda w: [b"2", w(LIST), w(LIST), b"LEFT", b"COUNT", b"2"],
    "blmpop": lambda w: [_WAIT, b"2", w(LIST), w(LIST), b"RIGHT", b"COUNT", b"2"],
    **dict.fromkeys(("blpop", "brpop"), lambda w: [w(LIST), _WAIT]),
    "xadd": _xadd,
    "xdel": lambda w: [w(STREAM), w.id(), w.id()],
    "xdelex": lambda w: [w(STREAM), w.one_of(b"KEEPREF", b"DELREF", b"ACKED"), b"IDS", b"2", w.id(), w.id()],
    "xtrim": lambda w: [w(STREAM), *w.one_of([b"MAXLEN", w.number()], [b"MINID", w.id()], [b"MAXLEN", b"~", b"2"])],
    "xsetid": lambda w: [w(STREAM), w.one_of(w.id(), b"99999999999998-1")],
    "xgroup": _xgroup,
    "xreadgroup": lambda w: [b"GROUP", b"g", b"c", b"COUNT", b"2", b"STREAMS", w(STREAM), b">"],
    "xack": lambda w: [w(STREAM), b"g", w.id(), w.id()],
    "xackdel": lambda w: [w(STREAM), b"g", w.one_of(b"KEEPREF", b"DELREF", b"ACKED"), b"IDS", b"1", w.id()],
    "xnack": lambda w: [w(STREAM), b"g", b"FAIL", b"IDS", b"1", w.id()],
    "xclaim": lambda w: [w(STREAM), b"g", b"d", b"0", w.id(), b"FORCE"],
    "xautoclaim": lambda w: [w(STREAM), b"g", b"d", b"0", b"0"],
    "sort": lambda w: [w(SET), b"ALPHA", b"STORE", w(LIST, LIST, ZSET)],
    **dict.fromkeys(("expire", "pexpire"), lambda w: [w.any(), w.soon()]),
    "expireat": lambda w: [w.any(), w.later()],
    "pexpireat": lambda w: [w.any(), w.later() + b"000"],
    "persist": lambda w: [w.any()],
    **dict.fromkeys(("del", "unlink"), lambda w: [w.any(), w.any()]),
    **dict.fromkeys(("rename", "renamenx"), lambda w: [w.any(), w.any()]),
    "copy": lambda w: [w.any(), w.any(), b"REPLACE"],
    "move": lambda w: [w.any(), b"1"],
    "restore": Words.dumped,
}


#: Commands that are not run in a script of a server of a version, and why.
NOT_IN_SCRIPTS = {(6, 2): {b"INCRBYFLOAT"}}  # Redis 6.2.14 dies of it, without redisrepl as well


def writes(client):
    """The names of commands that write, by the server's own list, but for those that are left out.

    Raises:
        AssertionError: one is new, and nobody has looked at what redisrepl makes of it.
    """
    names = {name for name, why in _listed(client).items() if not why}
    assert names <= ARGUMENTS.keys(), f"there are no arguments for {sorted(names - ARGUMENTS.keys())}"
    return sorted(names)


def _listed(client):
    """Every command of the server that writes, with the reason why it is left out; "" if it is not."""
    found = {}
    for name, told in client.command().items():
        flags = _texts(told["flags"])
        below = [_texts(each[2]) for each in told.get("subcommands") or ()]  # each of them has flags of its own
        if "write" in flags.union(*below):
            found[name] = LEFT_OUT.get(name, _OF_MODULES if "module" in flags else "")
    return found


def _texts(words):
    return {word.decode() if isinstance(word, bytes) else word for word in words}
