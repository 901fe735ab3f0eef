"""Route: a path of the service, its handlers by HTTP method, and the form of its errors."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from service.protocols import BadRequest, native, openai
from service.web.http import Call, Reply, json_reply

Handler = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """A route: a handler for each HTTP method, and the format of its errors.

    On a path that clients of several protocols use, `choose` returns the protocol of a request by its keys, and its
    errors have the form of that protocol. `error` and `statuses` are for requests of which no key is known.
    """

    label: str  # in the metrics: the protocol, or the purpose of the path
    methods: dict[str, Handler]
    error: Callable[[BadRequest], object] = native.error
    is_open: bool = False  # needs no API key
    statuses: dict[int, int] = field(default_factory=dict)  # status codes of errors that the protocol replaces
    choose: Callable[[Any], Any] | None = None  # of the JSON of a request, or of its keys

    def handler(self, method: str) -> Handler:
        """Return the handler of an HTTP method; of a HEAD request, that of GET.

        Raises:
            BadRequest: the path is unknown: the route has no method at all.
        """
        handler = self.methods.get(method)
        if handler is None and method == "HEAD":
            handler = self.methods.get("GET")
        if handler is not None:
            return handler
        if not self.methods:
            raise no_route()
        return constant(_not_allowed(self))


def no_route() -> BadRequest:
    """Return the error of a path that is not served."""
    return BadRequest(404, "Not Found: no such route, GET /openapi.json lists those of this server", "NotFound")


def openai_route(label: str, handler: Handler, choose: Callable[[Any], Any] | None = None) -> Route:
    """Return a route whose errors have OpenAI's form, unless `choose` returns another protocol."""
    return Route(label, {"POST": handler}, openai.error, statuses=openai.STATUSES, choose=choose)


def constant(reply: Reply) -> Handler:
    """Return a handler that always answers with a copy of `reply`."""

    async def handle(_: Call) -> Reply:
        return Reply(reply.body, reply.status, reply.headers, reply.content_type)

    return handle


def _not_allowed(route: Route) -> Reply:
    allowed = [name for method in route.methods for name in ((method, "HEAD") if method == "GET" else (method,))]
    problem = BadRequest(405, f"Method Not Allowed: this route has {', '.join(allowed)}", "MethodNotAllowed")
    return json_reply(route.error(problem), 405, [(b"allow", ", ".join(allowed).encode())])
