"""A module of ours for redis-server, with a type of its own: what servers hold that nobody else can know.

In: nothing. Out: a file that `loadmodule` takes. Left to others: starting the server (`testbed.redis_server`).

`NOTE.SET key text` keeps a text under a key of type `testnotes`, `NOTE.GET key` returns it, `NOTE.CUT key` removes the
key as a command of a module may do it: neither the stream nor an event says `DEL`. What it takes of Redis' interface
for modules is declared here.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

__all__ = ["NOTES", "NotesModule"]

#: The name of the type.
NOTES = b"testnotes"

_SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>

typedef struct Context Context;
typedef struct Key Key;
typedef struct String String;
typedef struct Io Io;
typedef struct Type Type;
typedef int Command(Context *, String **, int);

static struct {
  uint64_t version;
  void *(*load)(Io *, int);
  void (*save)(Io *, void *);
  void (*rewrite)(Io *, String *, void *);
  void *usage, *digest;
  void (*release)(void *);
} methods;

static int (*get_api)(const char *, void *);
static int (*create_command)(Context *, const char *, Command *, const char *, int, int, int);
static Type *(*create_type)(Context *, const char *, int, void *);
static void (*set_attributes)(Context *, const char *, int, int);
static Key *(*open_key)(Context *, String *, int);
static void (*close_key)(Key *);
static int (*delete_key)(Key *);
static Type *(*type_of)(Key *);
static void *(*value_of)(Key *);
static int (*key_type)(Key *);
static int (*set_value)(Key *, Type *, void *);
static void (*save_string)(Io *, String *);
static String *(*load_string)(Io *);
static void (*free_string)(Context *, String *);
static void (*retain_string)(Context *, String *);
static int (*reply_simple)(Context *, const char *);
static int (*reply_error)(Context *, const char *);
static int (*reply_string)(Context *, String *);
static int (*reply_null)(Context *);
static int (*replicate)(Context *);
static int (*notify)(Context *, int, const char *, String *);
static void (*emit)(Io *, const char *, const char *, ...);

enum { OK, ERROR, READ = 1, WRITE = 2, EMPTY = 0, OF_MODULE = 1 << 13 };
static Type *notes;

static void *load(Io *io, int version) { return version ? NULL : load_string(io); }
static void save(Io *io, void *text) { save_string(io, text); }
static void rewrite(Io *io, String *key, void *text) { emit(io, "NOTE.SET", "ss", key, text); }
static void release(void *text) { free_string(NULL, text); }

static int set(Context *context, String **words, int count) {
  if (count != 3) return reply_error(context, "ERR NOTE.SET key text");
  Key *key = open_key(context, words[1], READ | WRITE);
  if (key_type(key) != EMPTY && type_of(key) != notes) {
    close_key(key);
    return reply_error(context, "WRONGTYPE it is no note");
  }
  retain_string(NULL, words[2]);
  set_value(key, notes, words[2]);
  close_key(key);
  replicate(context);
  notify(context, OF_MODULE, "note.set", words[1]);
  return reply_simple(context, "OK");
}

static int get(Context *context, String **words, int count) {
  Key *key = count == 2 ? open_key(context, words[1], READ) : NULL;
  String *text = key && key_type(key) != EMPTY && type_of(key) == notes ? value_of(key) : NULL;
  int replied = text ? reply_string(context, text) : reply_null(context);
  if (key) close_key(key);
  return replied;
}

static int cut(Context *context, String **words, int count) {
  if (count != 2) return reply_error(context, "ERR NOTE.CUT key");
  Key *key = open_key(context, words[1], READ | WRITE);
  delete_key(key);
  close_key(key);
  replicate(context);
  notify(context, OF_MODULE, "note.cut", words[1]);
  return reply_simple(context, "OK");
}

int RedisModule_OnLoad(Context *context, String **words, int count) {
  (void)words, (void)count;
  get_api = (int (*)(const char *, void *))((void **)context)[0];
  struct { const char *name; void *place; } wanted[] = {
    {"SetModuleAttribs", &set_attributes}, {"CreateCommand", &create_command}, {"CreateDataType", &create_type},
    {"OpenKey", &open_key}, {"CloseKey", &close_key}, {"DeleteKey", &delete_key}, {"KeyType", &key_type},
    {"ModuleTypeGetType", &type_of}, {"ModuleTypeGetValue", &value_of}, {"ModuleTypeSetValue", &set_value},
    {"SaveString", &save_string}, {"LoadString", &load_string}, {"FreeString", &free_string},
    {"RetainString", &retain_string}, {"ReplyWithSimpleString", &reply_simple}, {"ReplyWithError", &reply_error},
    {"ReplyWithString", &reply_string}, {"ReplyWithNull", &reply_null}, {"ReplicateVerbatim", &replicate},
    {"NotifyKeyspaceEvent", &notify}, {"EmitAOF", &emit},
  };
  for (unsigned j = 0; j < sizeof wanted / sizeof *wanted; j++) {
    char name[64] = "RedisModule_";
    char *end = name + 12;
    for (const char *from = wanted[j].name; (*end++ = *from++);) {}
    if (get_api(name, wanted[j].place) != OK) return ERROR;
  }
  set_attributes(context, "notes", 1, 1);
  methods.version = 1;
  methods.load = load, methods.save = save, methods.rewrite = rewrite, methods.release = release;
  if (!(notes = create_type(context, "testnotes", 0, &methods))) return ERROR;
  return create_command(context, "note.set", set, "write deny-oom", 1, 1, 1)
      || create_command(context, "note.get", get, "readonly", 1, 1, 1)
      || create_command(context, "note.cut", cut, "write", 1, 1, 1);
}
"""


class NotesModule:
    """The module, compiled, for as long as it is used; `file` is its path."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="testbed-module-"))
        source, self.file = self._directory / "notes.c", self._directory / "notes.so"
        source.write_text(_SOURCE)
        subprocess.run(["cc", "-O1", "-fPIC", "-shared", "-o", self.file, source], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._directory)
