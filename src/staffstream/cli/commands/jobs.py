"""`staffstream jobs` and `staffstream deliveries`: background work and webhooks, looked at and done again.

They work on the file; a server that is running takes up what they change within a second.
"""

import argparse
from collections.abc import Callable
from typing import Any, get_args

from staffstream.cli.commands import add_db_option, open_file, print_line
from staffstream.storage import deliveries, jobs, staff
from staffstream.storage.database import Connection, transact
from staffstream.storage.deliveries import Delivery
from staffstream.storage.jobs import Job, JobKind, JobState


def add_commands(commands: Any) -> None:
    """Add `jobs list|retry|drop` and `deliveries list|redeliver`."""
    parser = commands.add_parser("jobs", help="list, retry and drop background jobs")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list them, newest first; finished ones leave nothing")
    listing.add_argument("--state", choices=get_args(JobState))
    listing.add_argument("--kind", choices=get_args(JobKind))
    listing.set_defaults(run=_list_jobs)
    retrying = actions.add_parser("retry", help="do dead or waiting ones now, with all their attempts before them")
    retrying.set_defaults(run=lambda args: _change_jobs(args, jobs.retry_job, "to be done now"))
    dropping = actions.add_parser("drop", help="erase some that are not running")
    dropping.set_defaults(run=lambda args: _change_jobs(args, jobs.drop_job, "dropped"))
    for action in (retrying, dropping):
        action.add_argument("ids", nargs="+", metavar="ID", help="their ids, or `dead` for all dead ones")
    for action in (listing, retrying, dropping):
        add_db_option(action)
    _add_deliveries(commands)


def _add_deliveries(commands: Any) -> None:
    parser = commands.add_parser("deliveries", help="list what was sent to webhooks, and send it again")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="a staff member's deliveries with their attempts, newest first")
    listing.add_argument("staff_id", metavar="STAFF", help="the staff member's id")
    listing.add_argument("--limit", type=int, default=50)
    listing.set_defaults(run=_list_deliveries)
    sending = actions.add_parser("redeliver", help="send some now, whatever has become of them")
    sending.add_argument("ids", nargs="+", metavar="ID")
    sending.set_defaults(run=_redeliver)
    for action in (listing, sending):
        add_db_option(action)


def _list_jobs(args: argparse.Namespace) -> None:
    with open_file(args.db) as connection:
        found = jobs.list_jobs(connection, state=args.state, kind=args.kind, limit=1000)
    for job in found:
        when = f"due {job.due_at}" if job.state == "due" else job.state
        print_line(f"{job.id}  {job.kind:9}  {job.subject}  {when}, {_tell_attempts(job.attempts, job.last_error)}")


def _change_jobs(args: argparse.Namespace, change: Callable[[Connection, str], Job], done: str) -> None:
    with open_file(args.db) as connection, transact(connection):
        dead = [job.id for job in jobs.list_jobs(connection, state="dead", limit=-1)]
        ids = dict.fromkeys(each for job_id in args.ids for each in (dead if job_id == "dead" else [job_id]))
        changed = [change(connection, job_id) for job_id in ids]
    for job in changed:
        print_line(f"{job.id}  {job.kind}  {job.subject}  {done}")


def _list_deliveries(args: argparse.Namespace) -> None:
    with open_file(args.db) as connection:
        staff.get_staff(connection, args.staff_id)
        found = deliveries.list_deliveries(connection, args.staff_id, limit=args.limit)
    for delivery in found:
        _print_delivery(delivery)


def _redeliver(args: argparse.Namespace) -> None:
    with open_file(args.db) as connection, transact(connection):
        sent = [deliveries.redeliver(connection, delivery_id) for delivery_id in args.ids]
    for delivery in sent:
        _print_delivery(delivery)


def _print_delivery(delivery: Delivery) -> None:
    following = f", next attempt {delivery.next_attempt_at}" if delivery.next_attempt_at else ""
    print_line(f"{delivery.id}  {delivery.state:9}  {delivery.event}  {delivery.url}{following}")
    for attempt in delivery.attempts:
        outcome = " ".join(str(part) for part in (attempt.status, attempt.error) if part)
        print_line(f"    {attempt.number}. {attempt.started_at}  {attempt.duration_ms} ms  {outcome}")


def _tell_attempts(attempts: int, last_error: str | None) -> str:
    return f"{attempts} attempt{'' if attempts == 1 else 's'}" + (f", last {last_error}" if last_error else "")
