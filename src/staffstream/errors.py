"""Everything that can go wrong and be told to a client, as one tree.

    StaffstreamError                     status  code                    retryable
    ├── BadRequest                       400     bad_request
    │   ├── NotJson                      400     not_json
    │   └── BadCursor                    400     bad_cursor
    ├── Unauthorized                     401     unauthorized
    ├── Forbidden                        403     forbidden
    │   ├── HostNotAllowed               403     host_not_allowed
    │   └── OriginNotAllowed             403     origin_not_allowed
    ├── NotFound                         404     not_found
    ├── MethodNotAllowed                 405     method_not_allowed
    ├── SlowRequest                      408     request_timeout         yes
    ├── Busy                             409     conversation_busy       yes
    ├── Conflict                         409     conflict
    │   └── UserExists                   409     user_exists
    ├── TooLarge                         413     too_large
    │   └── MessageTooLong               413     message_too_long
    ├── UnsupportedMediaType             415     unsupported_media_type
    ├── Invalid                          422     invalid
    │   ├── UnknownBefore                422     unknown_before
    │   └── IdempotencyMismatch          422     idempotency_mismatch
    ├── TooManyRequests                  429     too_many_requests       yes
    │   ├── TooManyStreams               429     too_many_streams        yes
    │   ├── UserCapReached               429     user_cap_reached        yes
    │   └── StaffCapReached              429     staff_cap_reached       yes
    ├── InternalError                    500     internal_error
    │   └── NotStarted                   500     not_started
    ├── Unavailable                      503     unavailable             yes
    │   ├── Draining                     503     draining                yes
    │   ├── StorageFull                  503     storage_full            yes
    │   ├── StorageUnavailable           503     storage_unavailable     yes
    │   └── StorageLost                  503     storage_lost
    ├── RunError                                 how a run can fail, before the stream or in it
    │   ├── ServerRestart                500     server_restart          yes
    │   ├── ServerShutdown               503     server_shutdown         yes
    │   ├── RunTimeout                   504     run_timeout             yes
    │   └── UpstreamError                502     upstream_error
    │       ├── UpstreamRefused          502     upstream_refused
    │       │   └── UpstreamUnfinished   502     upstream_unfinished
    │       ├── UpstreamKeyRefused       502     upstream_key_refused
    │       ├── UpstreamBroken           502     upstream_broken         yes
    │       │   ├── UpstreamIncomplete   502     upstream_incomplete     yes
    │       │   └── UpstreamMalformed    502     upstream_malformed      yes
    │       ├── UpstreamRateLimited      503     upstream_rate_limited   yes
    │       ├── UpstreamOverloaded       503     upstream_overloaded     yes
    │       └── UpstreamTimeout          504     upstream_timeout        yes
    ├── DeliveryError                    502     delivery_failed         yes
    │   ├── ReceiverUnreachable          502     receiver_unreachable    yes
    │   ├── ReceiverTimeout              504     receiver_timeout        yes
    │   ├── ReceiverRefused              502     receiver_refused        yes
    │   ├── ReceiverGone                 502     receiver_gone
    │   └── AddressNotPublic             502     address_not_public      yes
    └── SetupError                               the server cannot start; for the operator's eyes only

A class's docstring is the sentence its client reads when the raiser has nothing better to say; every sentence is ours,
never an exception's text. The causes are chained with `from` and go to the log.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class StaffstreamError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after_s: float | None = None,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.detail = detail or " ".join((type(self).__doc__ or "").split())
        self.retry_after_s = retry_after_s
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})
        super().__init__(self.detail)


class BadRequest(StaffstreamError):
    """The request cannot be read as it is."""

    status, code, title = 400, "bad_request", "Bad request"


class NotJson(BadRequest):
    """The body is not JSON. Send a JSON object in UTF-8."""

    code, title = "not_json", "Body is not JSON"


class BadCursor(BadRequest):
    """The cursor is not one of this run's. Join without a cursor to get the whole text."""

    code, title = "bad_cursor", "Unknown cursor"


class Unauthorized(StaffstreamError):
    """Send a valid key as 'Authorization: Bearer …'."""

    status, code, title = 401, "unauthorized", "Not authenticated"


class Forbidden(StaffstreamError):
    """This key may not do that."""

    status, code, title = 403, "forbidden", "Not allowed"


class HostNotAllowed(Forbidden):
    """This server does not go by that name. Its operator can add it to STAFFSTREAM_ALLOWED_HOSTS."""

    code, title = "host_not_allowed", "Host not allowed"


class OriginNotAllowed(Forbidden):
    """Pages of that origin may not call this server. Its operator can add it to STAFFSTREAM_CORS_ORIGINS."""

    code, title = "origin_not_allowed", "Origin not allowed"


class NotFound(StaffstreamError):
    """There is no such thing here."""

    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(StaffstreamError):
    """This path does not take that method; the Allow header lists those it takes."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"


class SlowRequest(StaffstreamError):
    """The request body did not arrive in time. Send it again."""

    status, code, title, retryable = 408, "request_timeout", "Request timed out", True


class Busy(StaffstreamError):
    """The conversation already has an active run. Wait for it, cancel it, or choose another multitask_strategy."""

    status, code, title, retryable = 409, "conversation_busy", "Conversation busy", True


class Conflict(StaffstreamError):
    """The request does not fit the present state."""

    status, code, title = 409, "conflict", "Conflict"


class UserExists(Conflict):
    """There is a user of this name already. Name another key, or give user_id (--user) to make this user one more."""

    code, title = "user_exists", "User exists"


class TooLarge(StaffstreamError):
    """The body is too large."""

    status, code, title = 413, "too_large", "Body too large"


class MessageTooLong(TooLarge):
    """The message alone is larger than the staff member's context budget. Shorten it or raise the budget."""

    code, title = "message_too_long", "Message too long"


class UnsupportedMediaType(StaffstreamError):
    """Send the body as JSON, with the header Content-Type: application/json."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class Invalid(StaffstreamError):
    """The body does not have the right shape; see errors."""

    status, code, title = 422, "invalid", "Invalid request"


class UnknownBefore(Invalid):
    """`before` is not the id of an entry of this list. Begin again without it."""

    code, title = "unknown_before", "Unknown before"

    def __init__(self) -> None:
        super().__init__(
            extra={"errors": [{"pointer": "/before", "detail": "must be the id of an entry of this list"}]}
        )


class IdempotencyMismatch(Invalid):
    """This Idempotency-Key was used with another body. Use a new key for a new message."""

    code, title = "idempotency_mismatch", "Idempotency-Key reused"


class TooManyRequests(StaffstreamError):
    """Too many requests. Wait as long as Retry-After says."""

    status, code, title, retryable = 429, "too_many_requests", "Too many requests", True


class TooManyStreams(TooManyRequests):
    """This key has as many open streams as it may have. Close one, or wait for one to end."""

    code, title = "too_many_streams", "Too many streams"


class UserCapReached(TooManyRequests):
    """What this user may use in a day is used up. It begins anew at midnight UTC."""

    code, title = "user_cap_reached", "Daily cap reached"


class StaffCapReached(TooManyRequests):
    """What this staff member may use in a day is used up. It begins anew at midnight UTC."""

    code, title = "staff_cap_reached", "Daily cap reached"


class InternalError(StaffstreamError):
    """The server made a mistake; its log has the details under this request id."""


class NotStarted(InternalError):
    """The app is not running: the host must enter its lifespan, see 'Inside another app' in the README."""

    code, title = "not_started", "Not started"


class Unavailable(StaffstreamError):
    """The server cannot do this now. Try again soon."""

    status, code, title, retryable = 503, "unavailable", "Unavailable", True


class Draining(Unavailable):
    """The server is shutting down. Try again in a moment."""

    code, title = "draining", "Shutting down"


class StorageFull(Unavailable):
    """The server's disk is full; nothing was saved. Try again later."""

    code, title = "storage_full", "Storage full"


class StorageUnavailable(Unavailable):
    """The server could not write to its database; nothing was saved. Try again soon."""

    code, title = "storage_unavailable", "Storage unavailable"


class StorageLost(Unavailable):
    """The server's database file was deleted, moved or replaced while it ran; nothing was saved. Its operator has to
    restart it.
    """

    code, title, retryable = "storage_lost", "Storage lost", False


class RunError(StaffstreamError):
    """The reply could not be made."""


class ServerRestart(RunError):
    """The server restarted while this reply was being made. What had arrived is saved; ask again for a whole one."""

    code, title, retryable = "server_restart", "Server restarted", True


class ServerShutdown(RunError):
    """The server shut down while this reply was being made. What had arrived is saved; ask again for a whole one."""

    status, code, title, retryable = 503, "server_shutdown", "Server shut down", True


class RunTimeout(RunError):
    """The reply took longer than this server allows. What had arrived is saved."""

    status, code, title, retryable = 504, "run_timeout", "Reply took too long", True


class UpstreamError(RunError):
    """Claude could not answer."""

    status, code, title = 502, "upstream_error", "Claude failed"


class UpstreamRefused(UpstreamError):
    """Claude refused the request. The server's log says why."""

    code, title = "upstream_refused", "Claude refused"


class UpstreamUnfinished(UpstreamRefused):
    """Claude did not come to the end of an answer. Shorten what is asked."""

    code, title = "upstream_unfinished", "Claude did not finish"


class UpstreamKeyRefused(UpstreamError):
    """Claude does not accept this server's API key. Its operator has to mend that."""

    code, title = "upstream_key_refused", "Claude refused the server's key"


class UpstreamBroken(UpstreamError):
    """The connection to Claude broke. Try again."""

    code, title, retryable = "upstream_broken", "Connection to Claude broke", True


class UpstreamIncomplete(UpstreamBroken):
    """Claude's reply ended before it was complete. Try again."""

    code, title = "upstream_incomplete", "Reply incomplete"


class UpstreamMalformed(UpstreamBroken):
    """Claude's reply could not be understood. Try again."""

    code, title = "upstream_malformed", "Reply not understood"


class UpstreamRateLimited(UpstreamError):
    """Claude is limiting this server's requests. Try again later."""

    status, code, title, retryable = 503, "upstream_rate_limited", "Claude is limiting us", True


class UpstreamOverloaded(UpstreamError):
    """Claude is overloaded. Try again soon."""

    status, code, title, retryable = 503, "upstream_overloaded", "Claude is overloaded", True


class UpstreamTimeout(UpstreamError):
    """Claude was silent for too long. Try again."""

    status, code, title, retryable = 504, "upstream_timeout", "Claude timed out", True


class DeliveryError(StaffstreamError):
    """The webhook could not be delivered."""

    status, code, title, retryable = 502, "delivery_failed", "Delivery failed", True


class ReceiverUnreachable(DeliveryError):
    """The webhook's receiver could not be reached, or the connection to it broke."""

    code, title = "receiver_unreachable", "Receiver unreachable"


class ReceiverTimeout(DeliveryError):
    """The webhook's receiver did not answer in time."""

    status, code, title = 504, "receiver_timeout", "Receiver timed out"


class ReceiverRefused(DeliveryError):
    """The webhook's receiver answered, but not with a 2xx status."""

    code, title = "receiver_refused", "Receiver refused"


class ReceiverGone(DeliveryError):
    """The webhook's receiver answered 410: it wants no more deliveries."""

    code, title, retryable = "receiver_gone", "Receiver gone", False


class AddressNotPublic(DeliveryError):
    """The webhook's address is not public; for a staff member's webhook the operator can name its host in
    STAFFSTREAM_WEBHOOK_ALLOW_PRIVATE.
    """

    code, title = "address_not_public", "Address not public"  # retryable, or it would tell such names from others


class SetupError(StaffstreamError):
    """The server cannot start as it is set up."""
