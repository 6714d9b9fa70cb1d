"""Tokens that are paid, and come back with time."""


class Bucket:
    """Holds at most `most` tokens; one comes back in `refill` seconds.

    Full at first, or as it was `at` a time with `tokens`. Time that runs backwards changes nothing.
    """

    def __init__(self, most: float, refill: float, tokens: float, at: float) -> None:
        self._most = most
        self._refill = refill
        self._tokens = min(most, max(0.0, tokens))
        self._at = at

    def level(self, now: float) -> float:
        """How many tokens there are, with fractions."""
        elapsed = max(0.0, now - self._at)
        return min(self._most, self._tokens + elapsed / self._refill)

    def pay(self, now: float) -> None:
        """Take one token, or what there is."""
        self._tokens = max(0.0, self.level(now) - 1)
        self._at = max(self._at, now)

    def give_back(self, now: float) -> None:
        """Put back a token that was taken for nothing."""
        self._tokens = min(self._most, self.level(now) + 1)
        self._at = max(self._at, now)

    def wait(self, now: float) -> float:
        """Seconds until there is a whole token."""
        return max(0.0, (1 - self.level(now)) * self._refill)
