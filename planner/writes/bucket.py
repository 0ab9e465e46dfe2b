"""How fast the planner may write: a token bucket, as client-go has for its clients. Pure."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """`rate` tokens a second, at most `burst` at once; full at first. Time in seconds."""

    rate: float
    burst: int
    _tokens: float = field(init=False)
    _at: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        self._tokens = float(self.burst)

    def take(self, now: float) -> float:
        """0 when a token was taken, else the seconds until there is one."""
        gained = (now - self._at) * self.rate
        self._tokens = min(float(self.burst), self._tokens + gained)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate
