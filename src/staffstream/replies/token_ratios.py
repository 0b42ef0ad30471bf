"""How many tokens the provider counts for one of ours, by model: learned from the usage of each reply.

Kept in memory and written down every few seconds. A row that every reply changed would make the ends of all replies
wait for each other; a crash loses a few samples of an estimate.
"""

from collections.abc import Mapping

from staffstream.storage import ratios
from staffstream.storage.database import Connection, Database
from staffstream.storage.ratios import TokenRatio

_SMALLEST, _LARGEST = 0.5, 3.0  # what a provider reports is held between these
_INPUT_TOKENS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class TokenRatios:
    """The ratios of one process."""

    def __init__(self) -> None:
        self._by_model: dict[str, TokenRatio] = {}
        self._unsaved: dict[str, list[float]] = {}

    async def load(self, database: Database) -> None:
        """Begin with what was learned before."""
        self._by_model = await database.read(ratios.load_token_ratios)

    def get(self, model: str) -> float | None:
        """The model's ratio; None until a reply of it has been counted."""
        known = self._by_model.get(model)
        return known.ratio if known else None

    def learn(self, model: str, our_tokens: int, usage: Mapping[str, int]) -> None:
        """Take what the provider counted for a prompt of `our_tokens` into the model's running mean."""
        counted = sum(usage.get(name, 0) for name in _INPUT_TOKENS)
        if counted and our_tokens:
            ratio = min(_LARGEST, max(_SMALLEST, counted / our_tokens))
            self._by_model[model] = self._by_model.get(model, TokenRatio(0.0, 0)).take(ratio)
            self._unsaved.setdefault(model, []).append(ratio)

    async def save(self, database: Database) -> None:
        """Write down what was learned since the last time."""
        if not (unsaved := self._unsaved):
            return
        self._unsaved = {}

        def save(tx: Connection) -> None:
            ratios.save_token_ratios(tx, unsaved)

        try:
            await database.write(save)
        except BaseException:
            for model, learned in unsaved.items():
                self._unsaved[model] = learned + self._unsaved.get(model, [])
            raise
