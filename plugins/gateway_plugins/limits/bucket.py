"""The token bucket: a level that calls take from, and that rises as time goes by.

It is the algorithm of Turner's leaky bucket as a meter (J. Turner, New Directions in
Communications, IEEE Communications Magazine 24(10), 1986), told as RFC 2697 does: it holds at most
`capacity`, `rate` a second flow in, and what a call takes must be there. Nothing runs by itself:
the level is brought up to date whenever somebody looks.
"""


class Bucket:
    """How much may be used now. Full at first.

    Times are monotonic seconds; one that lies before another that was told counts as that one.
    """

    __slots__ = ("at", "capacity", "level", "rate")

    def __init__(self, capacity: float, rate: float, now: float) -> None:
        self.capacity = capacity
        self.rate = rate
        self.level = capacity
        self.at = now

    def refill(self, now: float) -> float:
        """The level at `now`."""
        if now > self.at:
            level = self.level + (now - self.at) * self.rate
            self.level = min(self.capacity, level)
            self.at = now
        return self.level

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken, 0: at once; more than it holds needs it full."""
        level = self.refill(now)
        if amount <= level:
            return 0.0
        missing = (min(self.capacity, amount)) - level
        return missing / self.rate if missing > 0 else 0.0

    def take(self, amount: float) -> float:
        """Take what `wait` has just said is there; gives what was taken, the whole level at most.

        A call that needs more than the bucket holds empties it, else it could never be made. What
        it has really used is taken by `settle`.
        """
        taken = min(self.capacity, amount)
        self.level -= taken
        return taken

    def settle(self, taken: float, used: float, now: float) -> None:
        """Give back what was `taken` for a call and not `used`, or take the rest, even below 0."""
        level = self.refill(now) + taken - used
        self.level = min(self.capacity, level)

    def until_full(self, now: float) -> float:
        """Seconds, if nobody takes anything."""
        return (self.capacity - self.refill(now)) / self.rate

    def change(self, capacity: float, rate: float, now: float) -> None:
        """Go on from the level of now with another capacity and rate."""
        self.level = min(self.refill(now), capacity)
        self.capacity, self.rate = capacity, rate
