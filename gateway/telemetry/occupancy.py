"""How many callers are connected, and how many may be: what the front end tells of itself."""


class Occupancy:
    """The callers' connections of this process.

    `open` is their number, `most` how many there may be (None: no limit is known). `paused`: no
    further connection is accepted now; it waits in the system's queue. `pauses` counts the times
    that this began after a while without. `short`: it did so a short time ago.
    """

    __slots__ = ("most", "open", "paused", "pauses", "short")

    def __init__(self) -> None:
        self.open = 0
        self.most: int | None = None
        self.paused = self.short = False
        self.pauses = 0

    @property
    def reason(self) -> str | None:
        """Why callers may have to wait for a connection; None if they do not."""
        if not self.short:
            return None
        return f"callers wait: descriptors suffice for {self.most} connections (ulimit -n)"
