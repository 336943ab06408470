"""The workers of one task on Ray: hired, given chunks, watched, replaced.

A chunk goes to whichever worker has a place free. A worker that dies or makes no progress is replaced and its chunks are
handed out again; a chunk that lost two workers is scored alone, see `ray_isolation`. Workers that did well
stay for the next run that needs what they have loaded.
"""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from typing_extensions import override

from batch_assets.engines.engine import IN_HAND, EngineSettings, Item, Named, Notice, Result, Workers, WorkTimes
from batch_assets.engines.handout import Handout, file_of
from batch_assets.engines.node import Node
from batch_assets.engines.ray_hand import Hand, answer, at_once, no_place, start_seconds
from batch_assets.engines.ray_isolation import Isolation, again
from batch_assets.engines.ray_worker import Owner, Worker, name_of
from batch_assets.errors import EngineError, WorkerLost
from batch_assets.scoring.scorer import Scorer, ScoringTask

_NAMESPACE = "batch-assets"
"""Where the names of workers that stay are looked for."""

_IDLE_SECONDS = 5.0
_TICK_SECONDS = 1.0

_ANSWER_SECONDS = 5.0
"""One that stayed and does not answer within that hangs; it is not asked again."""

_DEATHS = 2
"""After so many lost workers a chunk is scored alone."""


class Crew(Workers):
    """The workers of one task."""

    def __init__(self, task: ScoringTask, settings: EngineSettings, notice: Notice, connect: Callable[[], object]) -> None:
        self._opened = time.time()
        self._task, self._settings, self._notice, self._connect = task, settings, notice, connect
        self._hands: list[Hand] = []
        self._deaths: Counter[str] = Counter()
        self._lost_while_loading = 0
        self._seconds: dict[str, float] = {}
        self._lifetimes: list[float] = []
        self._received = 0
        self._most = 0
        self._deaf: set[str] = set()
        self._driver: Node | None = None
        self._owner: Owner | None = None
        self._name = name_of(task)

    @override
    def map(self, work: Callable[[Scorer, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        waiting, alone = Handout(items), list[Item]()
        if not waiting:
            return
        self._connect()
        if self._owner is None:
            if self._resource() == "GPU" and not self._places():
                raise EngineError(
                    "The pipeline scores on cuda, and the Ray cluster has no GPU: set `device: cpu`, or add a node."
                )
            self._driver, self._owner = Node.here(self._task), Owner.new()
        size, looked = self._size(), time.monotonic()
        self._take_over(min(size, len(waiting)))
        patience = start_seconds(self._settings.stall_seconds)
        patient_until = looked + patience
        while waiting or any(hand.items for hand in self._hands):
            while sum(not hand.leaving for hand in self._hands) < min(size, len(waiting)):
                self._hands.append(self._hire(IN_HAND, stays=True))
            for hand, reference in self._finished():
                try:
                    yield from self._settled(hand, reference)
                except WorkerLost:
                    for item in self._taken_out(hand):
                        (alone.append if self._deaths[item.name] >= _DEATHS else waiting.put)(item)  # type: ignore[arg-type]
            for hand in self._hands:
                while waiting and hand.ready is None and not hand.leaving and len(hand.items) < IN_HAND:
                    hand.moved = hand.moved if hand.items else time.monotonic()
                    item = waiting.take(hand.file)
                    hand.items[hand.actor.work.remote(work, item)], hand.file = item, file_of(item)
            there = sum(hand.here is None for hand in self._hands)
            self._most = max(self._most, there)
            if there:
                patient_until = time.monotonic() + patience
            elif time.monotonic() > patient_until:
                raise EngineError(no_place(self._settings.stall_seconds))
            if time.monotonic() > looked + _IDLE_SECONDS:
                self._leave_nodes()
                size, looked = self._size(), time.monotonic()  # nodes come and go
                busy = sum(bool(hand.items) for hand in self._hands)
                self._take_over(min(size, busy + len(waiting)))  # another run may have released its workers meanwhile
            for hand in list(self._hands):
                hand.watch(self._settings.stall_seconds, self._notice)
            self._release_idle(over=not waiting)
        if alone:
            self._end_all()
            isolation = Isolation(partial(self._hire, 1), self._settings, self._task.settings, self._notice)
            for item in alone:
                began = time.time()
                result = isolation.work(work, item, self._deaths[item.name])
                self._lose(time.time() - began)
                yield result

    @override
    def times(self) -> WorkTimes:
        for hand in self._hands:
            self._count(hand)
        wall = time.time() - self._opened
        lifetimes, received = sum(self._lifetimes), self._received
        found = WorkTimes(self._most, wall, lifetimes, dict(self._seconds), received, "workers of Ray")
        self._seconds.clear()
        self._lifetimes.clear()
        self._received = 0
        return found

    def dismiss(self) -> None:
        """Let the workers go."""
        while self._hands:
            self._let_go(self._hands.pop())

    def _end_all(self) -> None:
        while self._hands:
            hand = self._hands.pop()
            self._count(hand)
            hand.end()

    def _take_over(self, wanted: int) -> None:
        """Engage workers that stayed and have loaded what is needed; ask idle ones that have not to make room.

        One that is engaged comes in place of one that waits for a place.
        """
        import ray

        pending = [hand for hand in self._hands if hand.here is not None]
        missing = wanted - sum(hand.here is None and not hand.leaving for hand in self._hands)
        others, mine = [], {hand.actor._actor_id.hex() for hand in self._hands}
        for key, name in _staying() if missing > 0 else []:
            with suppress(ValueError, WorkerLost):  # it left
                actor = ray.get_actor(name, namespace=_NAMESPACE)
                if key in mine or key in self._deaf:
                    continue
                if not name.startswith(f"{self._name}/"):
                    others.append(actor)
                elif missing > 0 and self._engaged(actor, key):
                    self._hands.append(self._hand(actor, None, stays=True))
                    missing -= 1
                    if pending:
                        self._hands.remove(pending[-1])
                        pending.pop().end()
        if others and ray.available_resources().get(self._resource(), 0) < missing:
            for actor in others:
                at_once(actor.leave).remote()

    def _engaged(self, actor: Any, key: str) -> bool:
        """Whether a worker that stayed serves this crew from now on. Raises WorkerLost."""
        import ray

        try:
            return bool(answer(at_once(actor.engage).remote(self._owner, self._task), timeout=_ANSWER_SECONDS))
        except ray.exceptions.GetTimeoutError:
            at_once(actor.release).remote(self._owner)  # it may get round to it later
            self._deaf.add(key)
            return False

    def _let_go(self, hand: Hand) -> None:
        """Release a worker that may stay; end any other, and those that are still at work."""
        import ray

        if not hand.stays or hand.items or hand.here is not None or hand.ready is not None:
            hand.end()
            return
        try:
            answer(at_once(hand.actor.release).remote(self._owner), timeout=10)
        except (WorkerLost, ray.exceptions.GetTimeoutError):
            hand.end()

    def _resource(self) -> str:
        return "GPU" if self._task.settings.device == "cuda" else "CPU"

    def _places(self) -> int:
        import ray

        resource, leaving = self._resource(), _leaving()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
        return int(sum(node.get(resource, 0) for node in nodes))

    def _size(self) -> int:
        """How many workers there can be; a place that is lost may come again, so one is waited for in any case."""
        return self._settings.workers or max(1, self._places())

    def _hire(self, in_hand: int, *, stays: bool = False) -> Hand:
        import ray

        stays = stays and self._settings.keep_seconds > 0
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if self._resource() == "GPU" else 0, "max_restarts": 0}
        if stays:
            name = f"{self._name}/{uuid.uuid4().hex[:8]}"
            options |= {"name": name, "namespace": _NAMESPACE, "lifetime": "detached"}
        remote = ray.remote(**options, max_concurrency=in_hand, concurrency_groups={"now": 2})(Worker)
        actor = remote.remote(self._settings.keep_seconds if stays else 0.0, self._owner, self._task)
        return self._hand(actor, at_once(actor.progress).remote(), stays=stays)

    def _hand(self, actor: Any, here: Any, *, stays: bool) -> Hand:
        """One whose time counts from now on, or, of the first, since the engine was opened."""
        since = time.time() if self._most else self._opened
        return Hand(actor, here, actor.ready.remote(self._driver), stays, since=since)

    def _finished(self) -> list[tuple[Hand, Any]]:
        """What is there to be settled; waits for a tick at most."""
        import ray

        waits: dict[Any, Hand] = {}
        for hand in self._hands:
            waits |= {reference: hand for reference in (hand.here, hand.ready, *hand.items) if reference is not None}
        done, _ = ray.wait(list(waits), num_returns=1, timeout=_TICK_SECONDS) if waits else ([], [])
        return [(waits[reference], reference) for reference in done]

    def _settled(self, hand: Hand, reference: Any) -> Iterator[Any]:
        result = answer(reference)
        hand.moved = hand.idle = time.monotonic()
        if reference == hand.here:
            hand.here = None
        elif reference == hand.ready:
            hand.begin(result)
            self._lost_while_loading = 0
        else:
            del hand.items[reference]
            yield result

    def _taken_out(self, hand: Hand) -> list[Named]:
        """Take a lost worker out; returns what it had in hand. Raises EngineError when something was tried too often."""
        lost = list(hand.items.values())
        self._hands.remove(hand)
        self._lose(time.time() - hand.since)
        hand.end()
        if hand.ready is not None:
            self._lost_while_loading += 1
            at_work = any(other.ready is None for other in self._hands)
            if self._lost_while_loading >= self._settings.max_attempts and not at_work:
                seconds = start_seconds(self._settings.stall_seconds)
                raise EngineError(
                    f"{self._lost_while_loading} workers were lost before they had loaded the model: is there enough memory "
                    f"for it, and are {seconds:,.0f} s (engine.stall_seconds) enough to load it?"
                )
        for item in lost:
            self._deaths[item.name] += 1
            if self._deaths[item.name] >= self._settings.max_attempts:
                raise EngineError(
                    f"{item.name} was given up after {self._deaths[item.name]} attempts; each time its worker was lost."
                )
        names = ", ".join(item.name for item in lost) or "nothing"
        self._notice(f"A worker was lost with {names} in hand; another one takes it over.")
        return [again(item) for item in lost]

    def _release_idle(self, *, over: bool) -> None:
        """Let workers without work go while others are still busy, if nothing waits; those of a node that goes at once."""
        busy = any(hand.items for hand in self._hands)
        for hand in list(self._hands):
            idle = not hand.items and hand.ready is None
            if idle and (hand.leaving or (over and busy and time.monotonic() - hand.idle > _IDLE_SECONDS)):
                self._hands.remove(hand)
                self._count(hand)
                self._let_go(hand)

    def _leave_nodes(self) -> None:
        """Give nothing more to workers on nodes that will be taken away; what they have in hand they finish, or lose."""
        leaving = _leaving()
        for hand in self._hands:
            if hand.place in leaving and not hand.leaving:
                hand.leaving, hand.stays = True, False
                self._notice("The node of a worker will be taken away; the worker finishes what it has in hand.")

    def _count(self, hand: Hand) -> None:
        """Add a living worker's seconds; what passed before it was born is start-up too."""
        import ray

        lifetime = time.time() - hand.since
        if hand.here is not None:  # it never had a place
            return
        try:
            spent = answer(at_once(hand.actor.spent).remote(), timeout=30)
        except (WorkerLost, ray.exceptions.GetTimeoutError):
            self._lose(lifetime)
            return
        self._lifetimes.append(lifetime)
        self._received += spent.received
        for stage, seconds in (*spent.seconds.items(), ("start-up", max(0.0, spent.since - hand.since))):
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def _lose(self, lifetime: float) -> None:
        """Add a worker that took what it knew with it."""
        self._lifetimes.append(lifetime)
        self._seconds["lost"] = self._seconds.get("lost", 0.0) + lifetime


def _leaving() -> "set[str]":
    """The nodes of which Ray was told that they will be taken away, as spot instances are."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def _staying() -> list[tuple[str, str]]:
    """The keys and names of all workers that can stay and are there: one that waits for its place would not answer."""
    import ray
    from ray._private.state import state

    there = {one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == _NAMESPACE}
    known = state.actor_table(None, actor_state_name="ALIVE")
    return [(key, actor["Name"]) for key, actor in known.items() if actor["Name"] in there]
