"""Token bucket: calls take from a level that rises over time.

The algorithm is Turner's leaky bucket as a meter (J. Turner, New Directions in Communications, IEEE
Communications Magazine 24(10), 1986), as described in RFC 2697: the bucket holds at most
`capacity`, fills at `rate` per second, and must hold what a call takes. No timer is needed: every
access first brings the level up to date.
"""


class Bucket:
    """Amount that may be used now. Full at first.

    Times are monotonic seconds; a time before the latest one counts as the latest one.
    """

    __slots__ = ("at", "capacity", "level", "rate")

    def __init__(self, capacity: float, rate: float, now: float) -> None:
        self.capacity = capacity
        self.rate = rate
        self.level = capacity
        self.at = now

    def refill(self, now: float) -> float:
        """Update the level to `now` and return it."""
        if now > self.at:
            self.level += (now - self.at) * self.rate
            if self.level > self.capacity:
                self.level = self.capacity
            self.at = now
        return self.level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; 0 if it can be taken at once.

        An amount above the capacity needs a full bucket.
        """
        level = self.refill(now)
        if amount <= level:
            return 0.0
        missing = (min(self.capacity, amount)) - level
        return missing / self.rate if missing > 0 else 0.0

    def take(self, amount: float) -> float:
        """Take what `wait` has just allowed; return the amount taken, at most the whole level.

        A call that needs more than the capacity empties the bucket, as it could never run
        otherwise. `settle` takes what the call has really used.
        """
        if amount > self.capacity:
            amount = self.capacity
        self.level -= amount
        return amount

    def drain(self, amount: float, now: float) -> float:
        """Take `amount`, or what there is of it; return the amount taken."""
        amount = min(amount, max(self.refill(now), 0.0))
        self.level -= amount
        return amount

    def settle(self, taken: float, used: float, now: float) -> None:
        """Replace the amount `taken` for a call with `used`, even if the level falls below 0."""
        # What was not used may come back at any time: the level ends at the capacity all the same.
        level = self.refill(now) if used > taken else self.level
        self.level = level + taken - used
        if self.level > self.capacity:
            self.level = self.capacity

    def until_full(self, now: float) -> float:
        """Seconds until the bucket is full if nothing is taken."""
        return (self.capacity - self.refill(now)) / self.rate

    def change(self, capacity: float, rate: float, now: float) -> None:
        """Set another capacity and rate; the current level stays, up to the new capacity."""
        self.level = min(self.refill(now), capacity)
        self.capacity, self.rate = capacity, rate
