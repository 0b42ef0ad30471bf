"""`/me` and `/models`: who the caller is, and what models cost."""

from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.response_models import Me, ModelPrices
from staffstream.storage.spending import LIST_PRICES

endpoints = Endpoints("account", "/api/v1")


@endpoints.get("/me", response=Me)
async def show(call: Call) -> Me:
    """Who the caller is, what their key allows, and whether the stand-in answers in Claude's place."""
    settings = call.services.settings
    return {
        "user_id": call.user_id,
        "role": call.caller.role,
        "offline": settings.offline,
        "model": settings.model,
        "context_budget_tokens": settings.context_budget_tokens,
        "max_output_tokens": settings.max_output_tokens,
    }


@endpoints.get("/models", response=list[ModelPrices])
async def list_models(call: Call) -> list[ModelPrices]:
    """The models whose price is known, in US dollars for a million tokens. A name stands for all models that begin
    with it; the longest one that fits counts.
    """
    prices = LIST_PRICES | dict(call.services.settings.prices or {})
    return [
        {"name": name, "input": each[0], "output": each[1], "cache_write": each[2], "cache_read": each[3]}
        for name, each in sorted(prices.items())
    ]
