"""Lines of the engine left out or turned round one at a time, and whether the model notices.

By hand: `python -m tests.model.mutants [SEEDS [NAME ..]]` plays all of them. In: seeds. Out: what was not noticed.
A mutant is text of a module replaced by other text, in memory; where the text is not found any more it says so.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import redisrepl
from redisrepl.engine import (
    ancestor,
    conditional,
    core,
    doubts,
    inbound,
    losers,
    merging,
    outbound,
    pending,
    plans,
    pushes,
    reconcile,
    record,
    seen,
    winners,
)
from redisrepl.flow import applying, differences, jobs, judging, pushing, reach, sweep
from tests.model.daemons import Made
from tests.model.runs import (
    FALL,
    ONE,
    conflict,
    each_its_own,
    everybody,
    evicted,
    fallen,
    fallen_with_full_disks,
    filled_anew,
    merged,
    read_by_two,
    run,
)
from tests.model.world import silence

ROOT = Path(redisrepl.__file__).parent
ALL = (*ONE, fallen, conflict)


class Mutant(NamedTuple):
    """A change of one place.

    Attributes:
        module: whose.
        name: of the class (empty: none) and the function, and what is different.
        text, instead: the place, and what stands there.
        phases, circumstances: of the runs that must notice it.
    """

    module: Any
    owner: str
    text: str
    instead: str
    phases: tuple[Any, ...] = ALL
    circumstances: dict[str, Any] = {}  # noqa: RUF012 - read only

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.module.__name__.removeprefix('redisrepl.')}:{self.owner}: {' '.join(self.text.split())[:60]}"


NOTIFY = {"notify": True, "restarts": True}
MERGED, OWN = (everybody, merged, merged), (everybody, each_its_own, each_its_own)
FEW = {"made": Made(options={"max_keys": 2})}
FILLS = {"fills": True}
STREAMS = {"only": ("stream",)}
BUSY = {"writes": 0.4}
RESTARTS = {"restarts": True}
GROUPS = {"groups": True, "only": ("stream",), "writes": 0.25}
READ = (everybody, read_by_two, read_by_two)

#: Those that CI plays: what they break, some runs notice.
SAMPLE = [
    Mutant(core, "Core.push_planned", "self.outbound.doubt(plan.key, plan.push, plan.expected)", "pass"),
    Mutant(core, "Core.apply_planned", 'self.losers.lost(plan.key, plan.lost, "hub")', "pass", (conflict,)),
    Mutant(
        losers,
        "Losers.lost",
        "self._keep(ConflictLoss(key, winner, lost.value, lost.ruling.reason))",
        "pass",
        (conflict,),
    ),
    Mutant(core, "Core.site_lost", 'self.continuity.happened("site", Event.DETACHED)', "pass"),
    Mutant(core, "Core.site_attached", 'self.continuity.happened("site", Event.ATTACHED)', "pass"),
    Mutant(core, "Core.site_missed", "Event.MISSED", "Event.RESUMED", ONE),
    Mutant(core, "Core.hub_heard", 'self.continuity.happened("hub", Event.ATTACHED)', "pass"),
    Mutant(core, "Core.judged", "self.continuity.happened(side, event, reason, proved=findings.proved)", "pass"),
    Mutant(core, "Core.overdue", "self._owe_what_was_left_out()", "pass", ONE, FEW),
    Mutant(core, "Core.differs", "self.inbound.suspect(keys)", "pass"),
    Mutant(core, "Core.compared", "self.continuity.happened(side, Event.COMPARED)", "pass"),
    Mutant(judging, "Judging._of_another", "Event.WENT_BACK", "Event.RESTARTED", FALL),
    Mutant(judging, "Judging._judged_of_hub", "Event.WENT_BACK", "Event.RESTARTED", FALL),
    Mutant(reconcile, "reconcile", "if about.site_lost or about.hub_lost:", "if False:", FALL),
    Mutant(reconcile, "_two_way", "return Verdict.PUSH", "return Verdict.APPLY", FALL),
    Mutant(reconcile, "reconcile", "if site == ancestor:", "if False:", ONE),
    Mutant(doubts, "Doubts._must_be_compared", "return True", "return False", FALL),
    Mutant(outbound, "Outbound.failed", "self.doubt(key)", "pass", ALL, {"only": ("string",)}),
]
#: Likewise, where elements are elements, of whatever collection.
SAMPLE += [
    Mutant(winners, "ruling_on", "return None if is_older else", "return None if True else", ONE, RESTARTS),
    Mutant(plans, "_plan_elements", "verdicts[LAST_ID] = _of_last_ids", "_of_last_ids", ALL, STREAMS | BUSY),
    Mutant(plans, "_as_collections", "ancestor.elements", "False", MERGED),
    Mutant(plans, "replacing", "[Deleted(key)] if site is not None and hub.type != OPAQUE else []", "[]", ONE),
    Mutant(ancestor, "note_changes", "and appends else", "else", MERGED, STREAMS),
    Mutant(ancestor, "note_changes", 'if kind == "stream" and appends', "if False", ONE, STREAMS),
    Mutant(merging, "elements_changed", "(*fields, LAST_ID)", "fields", MERGED, STREAMS),
    Mutant(pushes, "with_values", "if change.replaces", "if False", ONE, {"only": ("zset",)}),
    Mutant(pushing, "Pushing._with_values", "and FIRST_ID in read", "and False", ONE, STREAMS),
    Mutant(
        pushing, "Pushing._with_values", 'if "del" in kinds else ()', "if False else ()", ONE, {"only": ("set", "hash")}
    ),
    Mutant(conditional, "_condition_of_elements", "if f not in held]", "if False]", ONE, {"only": ("hash",)}),
    Mutant(conditional, "condition_of_state", "[Deleted(key), HashSet", "[HashSet", ONE, {"only": (None,)}),
    Mutant(differences, "lacks", "return not ours.keys() <= fields.keys()", "return False", MERGED),
    Mutant(judging, "Judging._note_evictions", "self._evicted_to = facts.offset", "pass", (everybody, evicted)),
    Mutant(doubts, "Doubts._kinds", "or self._evicts()", "", (everybody, filled_anew, filled_anew)),
    Mutant(plans, "_plan_elements", "is Verdict.CONFLICT or (lost and both)", "is None", READ, GROUPS),
]
#: Those that need more runs, or that something else makes up for.
MORE = [
    Mutant(winners, "ruling_on", "hub in {*known, *sent, *back.past_of_hub(name)}", "True", ONE, RESTARTS),
    Mutant(
        outbound,
        "Outbound._is_ours",
        "self._pulling.suspect((key,))  # it may",
        "pass  # it may",
        (everybody, fallen_with_full_disks),
        FILLS,
    ),
    Mutant(core, "Core.hub_heard", "self.inbound.resubscribed()", "pass", ONE),
    Mutant(core, "Core.overdue", "self.inbound.tick(now)", "pass"),
    Mutant(
        reconcile, "reconcile", "if hub == ancestor or hub in intents or hub in applied:", "if hub == ancestor:", ONE
    ),
    Mutant(core, "Core.compared", "self.outbound.swept()", "pass", ONE, FEW),
    Mutant(core, "Core._owe_what_was_left_out", "if outbound.take_left_out():", "if False:", ONE, FEW),
    Mutant(core, "Core._owe_what_was_left_out", "if outbound.take_flush():", "if False:", ONE),
    Mutant(outbound, "Outbound.take_left_out", "self._unswept |= left_out", "pass", ONE, FEW),
    Mutant(outbound, "Outbound.take_flush", "self._unswept |= flushed", "pass", ONE),
    Mutant(record, "StreamRecord._add", "changes, whole =", "changes, whole = (), True or", FALL),
    Mutant(reconcile, "reconcile", "if site in applied or (site == ancestor and hub in applied):", "if False:", ONE),
    Mutant(
        reconcile,
        "_removed_at_site",
        "return Verdict.PUSH if about.removals else Verdict.APPLY",
        "return Verdict.APPLY",
    ),
    Mutant(
        reconcile, "_removed_at_hub", "return Verdict.APPLY if about.removals else Verdict.PUSH", "return Verdict.PUSH"
    ),
    Mutant(
        outbound, "Outbound.new_from", "self.read_again_to = min(self.read_again_to, offset)", "self.read_again_to = 0"
    ),
    Mutant(outbound, "Outbound._add", "if expired or self.read_again_to or", "if expired or", ONE),
    Mutant(outbound, "Outbound.succeeded", "self._pulling.suspect(moved)", "pass", ONE),
    Mutant(inbound, "Inbound.take", "self._suspect[key] = suspect", "pass", ONE),
    Mutant(sweep, "Sweep._owe_again", 'state.owed = state.owed or reason or "timer"', "pass", ONE),
    Mutant(
        applying,
        "Applying._sent",
        "self.inbound.unanswered({change.key for change in changes}, time.monotonic())",
        "pass",
        ONE,
    ),
    Mutant(applying, "Applying._sent", "self._store.agreed(replaced)", "pass", (conflict, conflict, conflict)),
    Mutant(seen, "Ring.offset_of", "at + (not exact) <= count", "True"),
    Mutant(seen, "Ring.offset_of", "if not changes:", "if False:"),
    Mutant(reach, "StreamReach.held_by", "written[0]", "1", circumstances={"silent": True}),
    Mutant(pushing, "Pushing._failed", "self._hub.fence.doubt()", "pass", ONE),
    Mutant(plans, "_plan_whole", "plan.push, plan.expected = Invalidated(key, replaces=True), (far,)", "pass"),
    # With seed 670, of fewer than 300 with none.
    Mutant(
        reconcile,
        "circumstances",
        "return replace(base, removals=False)",
        "pass",
        (everybody,),
        {"expires": True, "restarts": True},
    ),
    Mutant(conditional, "_was_no_collection", "return ", "return not ", ONE),
    Mutant(pushing, "Pushing._push_batch", "appends=not batch.in_doubt", "appends=True", MERGED, STREAMS),
    Mutant(pushing, "Pushing._trimmed", "await self._store.names(key, before=first) | ", "", ONE, STREAMS),
    Mutant(pushing, "Pushing._trimmed", "there[LAST_ID] = last", "pass", ONE, STREAMS | BUSY),
    Mutant(pushing, "Pushing.outcomes", "if len(self._intents):", "if False:", ONE, {"sites": 3, "notify": True}),
    Mutant(pushing, "Pushing._with_values", "self.outbound.following.by_events", "False", OWN, {"notify": True}),
    Mutant(
        pushing,
        "Pushing._with_values",
        "case Deleted(key) if self.outbound.following.by_events",
        "case Deleted(key) if False",
        OWN,
        NOTIFY,
    ),
    Mutant(pushing, "Pushing._sending", "if self.outbound.every_write", "if False", OWN, {"every_write": True}),
    Mutant(doubts, "Doubts.forget", 'getattr(change, "type", None) == "stream"', "False", ALL, STREAMS | BUSY),
    Mutant(doubts, "Doubts._expect_no_more", "if isinstance", "if None and isinstance", ONE, {"deletes": False}),
    Mutant(merging, "_add", "fields |= with_last_id(fields)", "pass", ONE, STREAMS | BUSY),
    Mutant(merging, "elements_changed", "None if FIRST_ID in fields else", "", MERGED, STREAMS),
    Mutant(merging, "merge", "older.type != newer.type:", "False:", ONE, {"only": (None,), **BUSY}),
    Mutant(merging, "remaining", "or elements_changed(newer) is None", "", MERGED, STREAMS),
    Mutant(merging, "remaining", "waiting.fields.pop(LAST_ID, None)", "pass", MERGED, STREAMS),
    Mutant(pending, "Pending.put_back", "self._newer.pop(key, ())", "()", MERGED, RESTARTS),
    Mutant(pending, "Pending.forget", "(self._ready, self._held)", "(self._ready,)", MERGED, RESTARTS),
    Mutant(
        conditional, "_was_another", "known.elements.keys().isdisjoint(state.fields)", "False", ONE, {"only": (None,)}
    ),
    Mutant(inbound, "Inbound.suspect", "self._fetching[key] = _CHANGED", "pass", MERGED, RESTARTS),
    Mutant(
        outbound,
        "Outbound.void_expected",
        "self._pulling.unanswered(voided, math.inf)",
        "self._pulling.mark_dirty(voided)",
        ONE,
        {"sites": 3, "notify": True},
    ),
    Mutant(jobs, "FetchedJob.without", "fields = {*fields} - {LAST_ID}", "pass", MERGED, STREAMS),
]


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The engine is different for a while."""
    module, (*owner, name) = mutant.module, mutant.owner.split(".")
    holder = getattr(module, owner[0]) if owner else module
    source = Path(module.__file__).read_text()
    body = ast.parse(source).body
    if owner:
        body = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == owner[0]).body
    node = next(n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == name)
    text = textwrap.dedent("\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno]))
    if mutant.text not in text:
        raise LookupError(f"not found any more: {mutant.name}")
    names: dict[str, Any] = {}
    code = text.replace(mutant.text, mutant.instead)
    exec(compile("from __future__ import annotations\n" + code, mutant.name, "exec"), module.__dict__, names)
    before = holder.__dict__[name]
    holders = [holder] if owner else [m for m in list(sys.modules.values()) if getattr(m, name, None) is before]
    for one in holders:  # a function is known by name wherever it is imported
        setattr(one, name, names[name])
    try:
        yield
    finally:
        for one in holders:
            setattr(one, name, before)


def noticed_by(mutant: Mutant, seeds: range) -> int | None:
    """With which seed the model notices a mutant; None: with none."""
    with mutated(mutant):
        for seed in seeds:
            try:
                run(seed, *mutant.phases, **{"sites": 2, **mutant.circumstances})
            except Exception:  # noqa: BLE001 - whatever it is
                return seed
    return None


def main() -> None:
    """Play all of them, or those of which the name holds one of the words."""
    seeds, words = range(int(sys.argv[1]) if len(sys.argv) > 1 else 300), sys.argv[2:]
    with silence():
        for mutant in [*SAMPLE, *MORE]:
            if not words or any(word in mutant.name for word in words):
                try:
                    outcome = f"seed {noticed_by(mutant, seeds)}"
                except LookupError as error:
                    outcome = str(error)
                print(f"{mutant.name}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
