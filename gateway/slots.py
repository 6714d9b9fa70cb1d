"""How many attempts may be in flight at a time: at one worker, and over all of them."""


class Slots:
    """`used` of `limit` (None: no limit); taking one of these takes one of those `above` too, which
    have none above them.

    Only `take` and `give` change `used`, and nothing waits in them: at no moment is `used` over a
    `limit` that stood when the last slot was taken.
    """

    __slots__ = ("above", "limit", "used")

    def __init__(self, above: "Slots | None" = None) -> None:
        self.used = 0
        self.limit: int | None = None
        self.above = above

    @property
    def full(self) -> bool:
        own = self.limit is not None and self.used >= self.limit
        return own or (self.above is not None and self.above.full)

    def take(self) -> bool:
        """False, and nothing is taken, where there is no slot left."""
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
        """Give back one that was taken."""
        self.used -= 1
        if self.above is not None:
            self.above.used -= 1
