"""`/me` and `/models`: who the caller is, and what models cost."""

from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.response_models import ME, PRICES
from staffstream.api.views import Json
from staffstream.models.prices import list_prices

endpoints = Endpoints("account", "/api/v1")


@endpoints.get("/me", response=ME.model)
async def show(call: Call) -> Json:
    """Who the caller is, what their key allows, and whether the stand-in answers in Claude's place."""
    settings = call.services.settings
    return ME.show(
        call.caller,
        offline=settings.offline,
        model=settings.model,
        context_budget_tokens=settings.context_budget_tokens,
        max_output_tokens=settings.max_output_tokens,
    )


@endpoints.get("/models", response=PRICES.models)
async def list_models(call: Call) -> list[Json]:
    """The models whose price is known, in US dollars for a million tokens. A name stands for all models that begin
    with it; the longest one that fits counts.
    """
    known = list_prices(call.services.settings.prices)
    return [PRICES.show(each, name=name) for name, each in sorted(known.items())]
