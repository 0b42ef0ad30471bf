"""`create_app`: all rooms put together as one ASGI app with a lifespan.

Served alone, the server runs the lifespan. Mounted inside a host app, the host enters it: `async with app.running():
…`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, get_args

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from staffstream.api.auth import Identify, Services, identify_local
from staffstream.api.dialects.mcp import closing_mcp
from staffstream.api.host_check import HostCheck
from staffstream.api.join_tokens import JoinTokens, ensure_secret
from staffstream.api.key_ring import KeyRing, OpenStreams
from staffstream.api.problems import RequestMiddleware, handle_own_error, handle_routing_error
from staffstream.api.rate_limits import RateLimits
from staffstream.api.request_body import BodyBudget
from staffstream.api.routes import ROUTES
from staffstream.background import maintenance
from staffstream.background.bookkeeping import run_bookkeeping
from staffstream.background.events import LiveEvents
from staffstream.background.follow import Subscriptions
from staffstream.background.imports import Importer
from staffstream.background.progress import ProgressWriter
from staffstream.background.purge import Purger
from staffstream.background.recovery import Recovery
from staffstream.background.remote_runs import RemoteRuns
from staffstream.background.webhooks import Webhooks
from staffstream.background.worker import JobHandling, Worker
from staffstream.background.write_probe import WriteProbe
from staffstream.domain import Mode, Owner, make_id
from staffstream.errors import SetupError, StaffstreamError
from staffstream.memory.learning import Learning
from staffstream.memory.learning_jobs import LearningJobs
from staffstream.models.chat import ChatModel, ProviderTimeouts
from staffstream.models.claude import Claude
from staffstream.models.embeddings import make_embedder
from staffstream.pipeline import Pipeline
from staffstream.replies.token_ratios import TokenRatios
from staffstream.settings import Settings
from staffstream.storage import keys, staff
from staffstream.storage.database import Connection, Database
from staffstream.storage.engines import choose_engine
from staffstream.storage.jobs import JobKind
from staffstream.storage.memory_search import prepare_words
from staffstream.storage.spending import Ledger
from staffstream.storage.vectors import prepare_index
from staffstream.support import tokens
from staffstream.support.metrics import Metrics

if TYPE_CHECKING:
    from staffstream.models.offline import StandIn

log = logging.getLogger(__name__)

JOBS_GRACE_S = 1.0
WARM_UP_AFTER_S = 0.1  # by then requests are taken, which importing the SDK would hold up


class Staffstream(Starlette):
    """The ASGI app. `running()` is its lifespan, for a host that mounts it."""

    def __init__(self, settings: Settings, identify: Identify | None) -> None:
        self.settings = settings
        self.metrics = Metrics(get_args(Mode))
        self._identify = identify
        self.keyless = identify is None and not settings.uses_keys
        super().__init__(
            routes=ROUTES,
            middleware=[
                Middleware(
                    RequestMiddleware,
                    root_path=settings.root_path,
                    host_check=HostCheck(settings, keyless=self.keyless),
                ),
                *_allow_origins(settings),
            ],
            exception_handlers={StaffstreamError: handle_own_error, HTTPException: handle_routing_error},
            lifespan=lambda _: self.running(),
        )
        self.router.redirect_slashes = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open everything, serve within the block, and at its end stop what is still being made, its partial text
        saved.

        Raises SetupError when the server cannot start as it is set up.
        """
        settings = self.settings
        if not settings.offline and settings.anthropic_api_key is None:
            raise SetupError(
                "There is no ANTHROPIC_API_KEY. Set it, or start with --offline to try things with a stand-in."
            )
        if self.keyless and "*" in settings.cors_origins:
            raise SetupError(
                "STAFFSTREAM_CORS_ORIGINS=* without keys lets every page on the web read and change everything here."
                " Name the origins, or set STAFFSTREAM_AUTH=keys."
            )
        await asyncio.to_thread(tokens.warm_up)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(closing_mcp(self.state))
            engine = choose_engine(settings.db)
            presence = stack.enter_context(contextlib.closing(engine.join()))
            await presence.enter()  # before the file is opened, which may just be being replaced
            database = await stack.enter_async_context(engine.open(durability=settings.durability))
            if settings.uses_keys and not self._identify:
                await _check_keys(database, settings)
            chat_model = await stack.enter_async_context(contextlib.aclosing(make_chat_model(settings)))
            database.on_commit = self.metrics.note_commit
            embedder = await asyncio.to_thread(make_embedder, settings)
            await stack.enter_async_context(contextlib.aclosing(embedder))
            await database.write(lambda tx: prepare_index(tx, embedder.name, embedder.dimensions))
            await database.write(prepare_words)
            learning = Learning(settings=settings, embedder=embedder)
            await database.write(learning.resume_embedding)
            owner, ledger = Owner(make_id(), settings.lease_s), Ledger(settings, self.metrics)
            ratios = TokenRatios()
            await ratios.load(database)
            await stack.enter_async_context(run_bookkeeping(database, ratios))
            pipeline = Pipeline(
                settings=settings,
                database=database,
                owner=owner,
                chat_model=chat_model,
                learning=learning,
                ledger=ledger,
                ratios=ratios,
                metrics=self.metrics,
            )
            events = LiveEvents(database, list_active=pipeline.active_runs.list_saved)
            pipeline.on_run = events.publish_run
            webhooks = await stack.enter_async_context(
                Webhooks.open(database, private_hosts=settings.webhook_allow_private)
            )
            learning_jobs = LearningJobs(
                settings=settings,
                database=database,
                chat_model=chat_model,
                embedder=embedder,
                learning=learning,
                ledger=ledger,
                metrics=self.metrics,
            )
            worker = Worker(
                database,
                owner,
                _assign_jobs(learning_jobs, webhooks, chat_model),
                wake=learning.jobs_changed,
                metrics=self.metrics,
                note_job=events.note_job,
            )
            await stack.enter_async_context(worker.running(alone=presence.alone))
            wakeups = await stack.enter_async_context(engine.open_wakeups())
            progress = ProgressWriter(
                database=database,
                owner=owner,
                active_runs=pipeline.active_runs,
                endings=pipeline.endings,
                wakeups=wakeups,
            )
            recovery = Recovery(
                settings=settings,
                database=database,
                owner=owner,
                chat_model=chat_model,
                active_runs=pipeline.active_runs,
                endings=pipeline.endings,
                progress=progress,
            )
            await stack.enter_async_context(recovery.running(alone=presence.alone))
            purger = Purger(database)
            await stack.enter_async_context(purger.running(alone=presence.alone))
            remote_runs = RemoteRuns(database=database, active_runs=pipeline.active_runs, wakeups=wakeups)
            await stack.enter_async_context(remote_runs.running())
            await presence.share()
            await stack.enter_async_context(presence.kept())
            key_ring = KeyRing(database)
            await stack.enter_async_context(
                maintenance.run_maintenance(settings, database, purger, keys_used=key_ring.used)
            )
            identify = self._identify or (key_ring.identify if settings.uses_keys else identify_local)
            open_streams = OpenStreams(database)
            await stack.enter_async_context(open_streams.watching())
            self.state.services = Services(
                settings=settings,
                database=database,
                pipeline=pipeline,
                subscriptions=Subscriptions(
                    settings=settings, database=database, active_runs=pipeline.active_runs, remote_runs=remote_runs
                ),
                learning=learning,
                identify=identify,
                limits=RateLimits(settings),
                worker=worker,
                open_streams=open_streams,
                purger=purger,
                importer=Importer(database, learning, purger),
                bodies=BodyBudget(settings.max_bodies_bytes),
                join_tokens=JoinTokens(database, await database.write(ensure_secret)),
                write_probe=WriteProbe(database),
                events=events,
            )
            warming = asyncio.get_running_loop().call_later(WARM_UP_AFTER_S, chat_model.warm_up)
            try:
                yield
            finally:
                warming.cancel()
                self.state.services = None

    async def drain(self, grace_s: float) -> None:
        """Take no new runs and give the running ones `grace_s` seconds; what is left then ends with its partial text
        saved. Background jobs have a moment, and are done again after the restart.
        """
        if (services := getattr(self.state, "services", None)) is not None:
            await services.pipeline.active_runs.drain(grace_s)
            services.events.close()
            await services.worker.drain(min(grace_s, JOBS_GRACE_S))

    async def welcome(self) -> str:
        """The id of a staff member to talk to, made on the first start if there is none."""
        database: Database = self.state.services.database
        return await database.write(_ensure_first_staff)


def create_app(settings: Settings | None = None, *, identify: Identify | None = None) -> Staffstream:
    """An ASGI app with these settings (by default all defaults, and nothing is read from the environment).

    `identify` names the user of a request, for a host that knows its users; without it the settings' `auth` decides.
    """
    return Staffstream(settings or Settings(), identify)


def _allow_origins(settings: Settings) -> list[Middleware]:
    """CORS, for browsers on pages of the origins that the settings name."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=["*"],
            max_age=600,
        )
    ]


async def _check_keys(database: Database, settings: Settings) -> None:
    """Raise SetupError if keys are required and none exists; on loopback, where one can still be made, only warn."""
    if await database.read(keys.has_keys):
        return
    problem = (
        "There is no key yet, so nobody could use this server."
        f" Make one with: staffstream keys create NAME --db {choose_engine(settings.db).place}"
    )
    if not settings.on_loopback:
        raise SetupError(problem)
    log.warning("%s", problem)


def _assign_jobs(learning_jobs: LearningJobs, webhooks: Webhooks, chat_model: ChatModel) -> dict[JobKind, JobHandling]:
    """Who does which background work. One conversation is never worked on twice at a time: a job's subject sees to
    that.
    """
    return {
        "extract": JobHandling(learning_jobs.extract, may_begin=chat_model.is_ready),
        "summarise": JobHandling(learning_jobs.summarise, may_begin=chat_model.is_ready),
        "embed": JobHandling(learning_jobs.embed, concurrency=1),
        "deliver": JobHandling(webhooks.deliver, concurrency=64),  # a receiver may hold each of its own for 15 s
    }


def make_chat_model(settings: Settings) -> ChatModel:
    """Claude, or with `offline` its stand-in under the same SDK."""
    timeouts = ProviderTimeouts(settings.connect_timeout_s, settings.first_event_timeout_s, settings.stream_timeout_s)
    most = settings.upstream_concurrency
    if settings.offline:

        def make_stand_in() -> "StandIn":
            from staffstream.models.offline import StandIn  # under the SDK's HTTP client, which comes with the SDK

            return StandIn(pace_s=settings.offline_pace_s)

        return Claude(
            timeouts,
            api_key="offline",
            base_url="http://offline.invalid",
            concurrency=most,
            make_transport=make_stand_in,
        )
    key = settings.anthropic_api_key.get_secret_value() if settings.anthropic_api_key else None
    return Claude(
        timeouts, api_key=key, base_url=settings.anthropic_base_url, concurrency=most, fast=settings.fast_paths
    )


def _ensure_first_staff(tx: Connection) -> str:
    known = staff.list_staff(tx)
    if known:
        return known[0].id
    persona = "You are warm, curious and brief. You remember what people tell you and bring it up when it helps."
    return staff.create_staff(tx, {"name": "Ada", "role": "a personal assistant", "persona": persona}).id
