"""Token ratios by model: rows in and out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from staffstream.storage.database import Connection

_MEMORY = 20  # replies: how slowly an old ratio is forgotten


@dataclass(frozen=True, slots=True)
class TokenRatio:
    """A running mean and how many replies it was learned from."""

    ratio: float
    samples: int

    def take(self, ratio: float) -> "TokenRatio":
        """The mean with one more reply."""
        return TokenRatio(self.ratio + (ratio - self.ratio) / min(self.samples + 1, _MEMORY), self.samples + 1)


def load_token_ratios(conn: Connection) -> dict[str, TokenRatio]:
    """How many tokens the provider counts for one of ours, by model."""
    rows = conn.execute("SELECT model, ratio, samples FROM token_ratios")
    return {row["model"]: TokenRatio(row["ratio"], row["samples"]) for row in rows}


def save_token_ratios(tx: Connection, learned: Mapping[str, Sequence[float]]) -> None:
    """Take the ratios of some replies, by model, into the saved means."""
    known = load_token_ratios(tx)
    for model, ratios in learned.items():
        mean = known.get(model, TokenRatio(0.0, 0))
        for ratio in ratios:
            mean = mean.take(ratio)
        tx.execute(
            "INSERT INTO token_ratios (model, ratio, samples) VALUES (?, ?, ?) ON CONFLICT (model) DO UPDATE SET"
            " ratio = excluded.ratio, samples = excluded.samples",
            (model, mean.ratio, mean.samples),
        )
