"""`/jobs`: the background work of the server, for admins: looking at it, trying it again, dropping it."""

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_admin
from staffstream.api.json_responses import respond_json, respond_page
from staffstream.api.request_body import read_query
from staffstream.api.request_models import JobPage, show_job
from staffstream.storage import jobs


async def list_some(request: Request) -> Response:
    """The jobs there are, newest first; finished ones leave nothing."""
    service, _ = await get_admin(request)
    page = read_query(request, JobPage)
    found = await service.database.read(
        lambda conn: jobs.list_jobs(conn, state=page.state, kind=page.kind, limit=page.limit + 1, before=page.before)
    )
    return respond_page(
        request,
        [show_job(job) for job in found[: page.limit]],
        limit=page.limit,
        more=len(found) > page.limit,
        path=("jobs",),
    )


async def show(request: Request) -> Response:
    """One job."""
    service, _ = await get_admin(request)
    job_id = request.path_params["job_id"]
    return respond_json(show_job(await service.database.read(lambda conn: jobs.get_job(conn, job_id))))


async def retry(request: Request) -> Response:
    """Do a dead or waiting job now, with all its attempts before it. The job that will do it may have another id."""
    service, _ = await get_admin(request)
    job_id = request.path_params["job_id"]
    job = await service.database.write(lambda tx: jobs.retry_job(tx, job_id))
    service.worker.wake.set()
    return respond_json(show_job(job), 202)


async def drop(request: Request) -> Response:
    """Erase a job that is not running: what it was to do is not done."""
    service, _ = await get_admin(request)
    job_id = request.path_params["job_id"]
    await service.database.write(lambda tx: jobs.drop_job(tx, job_id))
    return Response(status_code=204)
