"""Limits on the number of attempts in flight: at one worker, and over all workers."""


class Slots:
    """`used` slots of `limit` (None: no limit). Taking one also takes one of `above`, if set.

    The `above` of an `above` is None. Only `take` and `give` change `used`, and neither waits: at
    no moment is `used` over the `limit` in force when the last slot was taken.
    """

    __slots__ = ("above", "limit", "used")

    def __init__(self, above: "Slots | None" = None) -> None:
        self.used = 0
        self.limit: int | None = None
        self.above = above

    @property
    def full(self) -> bool:
        if self.limit is not None and self.used >= self.limit:
            return True
        above = self.above
        return above is not None and above.limit is not None and above.used >= above.limit

    def take(self) -> bool:
        """Take a slot; return False, and take nothing, if no slot is left."""
        above = self.above
        if self.limit is not None and self.used >= self.limit:
            return False
        if above is not None:
            if above.limit is not None and above.used >= above.limit:
                return False
            above.used += 1
        self.used += 1
        return True

    def give(self) -> None:
        """Give back one slot."""
        self.used -= 1
        if self.above is not None:
            self.above.used -= 1
