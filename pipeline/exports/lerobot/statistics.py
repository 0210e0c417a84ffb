"""Statistics of a feature, grown row by row, as LeRobot normalises by them."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(eq=False, slots=True)
class Sums:
    """Statistics of a feature, grown by rows."""

    width: int
    count: int = 0
    total: Any = 0.0
    squares: Any = 0.0
    low: Any = np.inf
    high: Any = -np.inf

    def add(self, rows: np.ndarray) -> None:
        rows = rows.reshape(len(rows), -1).astype(np.float64)
        if len(rows):
            self.count += len(rows)
            self.total, self.squares = self.total + rows.sum(0), self.squares + (rows**2).sum(0)
            self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))

    def told(self) -> dict[str, list[float]]:
        zero = np.zeros(self.width)
        mean = self.total / self.count if self.count else zero
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0)) if self.count else zero
        low, high = (self.low, self.high) if self.count else (zero, zero)
        told = {"min": low, "max": high, "mean": mean, "std": std}
        return {name: np.broadcast_to(value, self.width).tolist() for name, value in told.items()} | {"count": [self.count]}
