"""How many requests an origin should have in flight.

Floor 1. Knows latencies, rates and refusals as numbers, and is told the time; must not know clocks,
sockets, or who reads. There is one :class:`Pace` for each origin and process, and all that read from
the origin ask it. Three things decide, each within the bounds of the one before:

* *Latency* says what can be of use: a reader that waits longer for its first byte than a read costs the
  interpreter leaves room for another.
* *Throughput* says what is of use: now and then a stream reads a moment with more or fewer in flight, and
  what is better, beyond what chance does, stays (:class:`Climb`).
* *Refusals* (503, 429) say what is too much: the number is halved at once and comes back one a second
  (:class:`Brake`; the additive increase and multiplicative decrease of TCP, Chiu and Jain, 1989).
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import NamedTuple

#: What one read costs the interpreter, in seconds (measured: 40-60 us).
_COST_S = 50e-6
#: Readers that a store without latency can use (measured on loopback: 4 and 8 alike, 32 a third less).
FEW = 6
#: Answers whose time to the first byte is remembered: their minimum is what the network costs.
_LATENCY_WINDOW = 32
#: A read counts as its bytes and so many more: what the far side, the network and we do for it besides.
_READ_BYTES = 64 * 1024

#: What is left of the number in flight after a refusal, and how many come back in a second.
_BACK_OFF = 0.5
_RECOVER_PER_S = 1.0
#: Refusals so soon after the first (seconds; and two latencies) are of the same moment, and count once.
_SAME_MOMENT_S = 0.1
#: In flight when nobody has asked yet: users' own threads, maybe.
_UNASKED = 64
_NO_CAP = 1 << 30

#: One moment of a trial lasts so many seconds at least ...
_MOMENT_S = 0.25
#: ... and so many reads of each reader: a rate made of fewer is mostly chance.
_READS_EACH = 2
#: Between trials, in seconds; doubles up to the longest with each that has brought nothing.
_REST_S = 2.0
_LONGEST_REST_S = 64.0
#: By how much a trial changes the number of readers.
_STEP = 1.5
#: More readers must gain this much, fewer may lose this much, compared with the moments before and after,
#: so often in a row. On a busy machine the rates of two moments differ by a tenth as a matter of course.
_GAIN = 1.1
_LOSS = 0.97
_IN_A_ROW = 2
_MOMENTS = 3
#: A latency so many times the shortest means that requests wait in a queue.
_QUEUED = 2.0
#: When the latency says so many times more or less than at the time, what was learned is learned anew.
_OTHER = 4.0


def depth_for(latency_s: float, most: int) -> int:
    """Return how many readers a store of this latency can keep busy, at least a few, at most ``most``."""
    return min(most, max(FEW, math.ceil(latency_s / _COST_S)))


class Brake:
    """The most requests that a busy server is sent. Not thread-safe.

    Attributes:
        limit: Requests in flight, at least 1; infinite while there was no refusal lately.
    """

    def __init__(self) -> None:
        self.limit = math.inf
        self._since = 0.0
        self._deaf_until = -math.inf
        self._ceiling = math.inf

    def press(self, now: float, depth: int, latency_s: float) -> None:
        """Note a refusal.

        Args:
            now: Seconds, of any clock that does not go back.
            depth: Requests in flight.
            latency_s: Of the server: after a press it takes so long until answers are of another moment.
        """
        if now < self._deaf_until:
            return
        if self.limit == math.inf:
            self._ceiling = max(depth, 2)
        self.ease(now)
        self.limit = max(1.0, min(self.limit, depth) * _BACK_OFF)
        self._since = now
        self._deaf_until = now + _SAME_MOMENT_S + 2 * latency_s

    def ease(self, now: float) -> None:
        """Let come back what the time since the last look allows."""
        if self.limit < math.inf:
            self.limit += max(0.0, now - self._since) * _RECOVER_PER_S
            self._since = now
            if self.limit >= self._ceiling:
                self.limit = math.inf


class _Trial(NamedTuple):
    """Moments with the usual number of readers, with another one, and with the usual one again."""

    usual: int
    tried: int
    rates: tuple[float, ...]
    wins: int = 0

    @property
    def width(self) -> int:
        return self.tried if len(self.rates) == 1 else self.usual

    def is_won(self) -> bool:
        before, tried, after = self.rates
        best = max(before, after)
        return tried > best * _GAIN if self.tried > self.usual else tried >= best * _LOSS


class Climb:
    """Finds out whether more or fewer readers than the latency suggests would do. Not thread-safe.

    A trial that is not won twice in a row changes nothing, and makes the next one wait twice as long: on a
    machine that is mostly noise this costs a few moments, and fewer and fewer of them.
    """

    def __init__(self) -> None:
        self._home = FEW
        self._most = FEW
        self._learned = 0  # readers; 0: follow the latency
        self._learned_at = FEW  # what the latency said then
        self._trial: _Trial | None = None
        self._upwards = True
        self._rest_s = _REST_S
        self._next_at = math.inf
        self._begin(-math.inf, settle=1)

    def width(self, home: int, most: int) -> int:
        """Return how many readers there should be now.

        Args:
            home: How many the latency suggests.
            most: How many there may be.
        """
        self._home, self._most = home, most
        if self._learned and not self._learned_at <= home * _OTHER <= self._learned_at * _OTHER**2:
            self._learned = 0
            self._trial = None
        return max(1, min(most, self._trial.width if self._trial else self._usual()))

    def note(self, now: float, reads: int, work: float, *, queued: bool) -> None:
        """Note what was read since the last note, by readers who had nothing else to wait for.

        Args:
            now: Seconds.
            reads: How many.
            work: What they amount to; in which unit does not matter.
            queued: Whether requests seem to wait for each other at the far side.
        """
        if self._settle > 0:  # what was begun with another number of readers says nothing
            self._begin(now, self._settle - reads)
            return
        self._reads += reads
        self._work += work
        width = self._trial.width if self._trial else self._usual()
        if now - self._began < _MOMENT_S or self._reads < width * _READS_EACH:
            return
        rate = self._work / (now - self._began)
        self._begin(now)
        self._judge(now, rate, queued=queued)

    def hold(self, now: float) -> None:
        """Forget the moment and the trial: something else than the number of readers decides at present."""
        self._trial = None
        self._begin(now, settle=1)

    def _begin(self, now: float, settle: int = 0) -> None:
        """Begin a moment, after so many reads that still belong to what was before."""
        self._began = now
        self._reads = 0
        self._work = 0.0
        self._settle = settle

    def _usual(self) -> int:
        return self._learned or self._home

    def _judge(self, now: float, rate: float, *, queued: bool) -> None:
        trial = self._trial
        if trial is None:
            self._next_at = min(self._next_at, now + self._rest_s)
            if now >= self._next_at:
                self._propose(now, rate, queued=queued)
            return
        self._trial = trial = trial._replace(rates=(*trial.rates, rate))
        self._begin(now, settle=trial.width)
        if len(trial.rates) < _MOMENTS:
            return
        if not trial.is_won():
            self._trial = None
            self._rest(now, min(2 * self._rest_s, _LONGEST_REST_S))
            self._upwards = not self._upwards
        elif trial.wins + 1 < _IN_A_ROW:
            self._trial = trial._replace(rates=(rate,), wins=trial.wins + 1)
        else:
            self._trial = None
            self._learned, self._learned_at = trial.tried, self._home
            self._rest(now, _REST_S)
            self._next_at = now

    def _rest(self, now: float, seconds: float) -> None:
        self._rest_s = seconds
        self._next_at = now + seconds

    def _propose(self, now: float, rate: float, *, queued: bool) -> None:
        """Begin a trial, if there is something to be tried."""
        usual = self._usual()
        up = min(self._most, math.ceil(usual * _STEP))
        # Fewer than the latency suggests only where there is a sign that these are too many.
        down = max(FEW, int(usual / _STEP)) if queued or usual > self._home else usual
        choices = [width for width in ((up, down) if self._upwards else (down, up)) if width != usual]
        if not choices or usual > self._most:
            self._rest(now, self._rest_s)
            return
        self._upwards = choices[0] > usual
        self._trial = _Trial(usual, choices[0], (rate,))
        self._begin(now, settle=choices[0])


class Pace:
    """What is known of one origin, and how many requests it should have in flight. Thread-safe.

    Attributes:
        cap: Most requests of one reading party because of refusals; may be looked at without a lock. Who
            has more in flight lets some end.
    """

    def __init__(self) -> None:
        self.cap = _NO_CAP
        self._latencies_s: deque[float] = deque(maxlen=_LATENCY_WINDOW)
        self._shortest_s = math.inf
        self._lock = threading.Lock()
        self._brake = Brake()
        self._climb = Climb()
        #: By their ids. No lock: a stream that is let go leaves at any time, in any thread.
        self._parties: dict[int, bool] = {}
        self._is_company_new = False
        self._asked = _UNASKED

    # -- what is noted ----------------------------------------------------------------------------

    def note_latency(self, seconds: float) -> None:
        """Remember a time from request to first byte."""
        self._latencies_s.append(seconds)

    def latency_s(self) -> float | None:
        """Return the shortest recent time from request to first byte, in seconds, or ``None``."""
        recent = self._latencies_s.copy()
        return min(recent) if recent else None

    def note_busy(self, now: float) -> None:
        """Note that the server has refused a request since it is busy."""
        with self._lock:
            self._brake.press(now, self._asked, self.latency_s() or 0.0)
            self._climb.hold(now)
            self._set_cap()

    def note_progress(self, now: float, reads: int, length: int, *, hungry: bool) -> None:
        """Note what a stream has read.

        Args:
            now: Seconds.
            reads: How many reads since the last note.
            length: Their bytes.
            hungry: Whether all the while its readers had room to read into: the consumer kept up.
        """
        with self._lock:
            alone = len(self._parties) <= 1 and not self._is_company_new
            self._is_company_new = False
            if not hungry or not alone or self.is_braked:
                self._climb.hold(now)
                return
            latency = self.latency_s()
            queued = latency is not None and latency > self._shortest_s * _QUEUED
            self._climb.note(now, reads, length + reads * _READ_BYTES, queued=queued)

    # -- what is asked ----------------------------------------------------------------------------

    def width(self, most: int, now: float) -> int:
        """Return how many readers are of use now.

        Args:
            most: The caller's bound, at least 1.
            now: Seconds.
        """
        with self._lock:
            latency = self.latency_s()
            wanted = most
            if latency is not None:
                self._shortest_s = min(self._shortest_s, latency)
                wanted = self._climb.width(depth_for(latency, most), most)
            self._asked = wanted * max(1, len(self._parties))
            self._brake.ease(now)
            self._set_cap()
            return min(wanted, self.cap)

    @property
    def is_braked(self) -> bool:
        """Whether the server has refused requests lately."""
        return self.cap < _NO_CAP

    # -- who reads --------------------------------------------------------------------------------

    def join(self, party: object) -> None:
        """Begin to read, beside other parties: the cap is shared. Heeded when somebody asks the next time."""
        self._parties[id(party)] = True
        self._is_company_new = True

    def leave(self, party: object) -> None:
        """End what :meth:`join` began."""
        self._parties.pop(id(party), None)
        self._is_company_new = True

    def _set_cap(self) -> None:
        limit = self._brake.limit
        self.cap = _NO_CAP if limit == math.inf else max(1, int(limit) // max(1, len(self._parties)))
