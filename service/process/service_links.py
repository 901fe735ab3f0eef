"""Service links: environment variables that Kubernetes and Docker add to a container for each service.

A Service named `prunella` or `prunella-canary` gives PRUNELLA_SERVICE_HOST, PRUNELLA_PORT=tcp://10.96.0.12:3000,
PRUNELLA_CANARY_PORT_3000_TCP_ADDR and the like: they have the prefix of our settings but are not settings. Both the
name and the value must match, so that a misspelled setting is not mistaken for a link.
https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
https://docs.docker.com/engine/network/links/#environment-variables
"""

import logging
import re
from collections.abc import Mapping

log = logging.getLogger("prunella")
PORT = r"_PORT_\d+_(?:TCP|UDP|SCTP)"
URL = r"(?:tcp|udp|sctp)://\S+"
LINKS = (  # patterns of what follows the service name in the variable, and of its value
    (r"_SERVICE_HOST", r"[0-9A-Fa-f:.]+"),
    (r"_SERVICE_PORT(?:_[A-Z0-9_]+)?", r"\d+"),
    (r"_PORT", URL),
    (rf"{PORT}(?:_START|_END)?", URL),
    (rf"{PORT}_PROTO", r"tcp|udp|sctp|TCP|UDP|SCTP"),
    (rf"{PORT}_PORT(?:_START|_END)?", r"\d+"),
    (rf"{PORT}_ADDR", r"[0-9A-Za-z:.-]+"),
    (r"_NAME", r"/\S+/\S+"),  # Docker only: the container and its alias
)


def service_links(environment: Mapping[str, str], name: str) -> set[str]:
    """Return the variables that are links to a service named `name` or `name-…`; `name` is in upper case."""
    links, aliases = set(), set()
    for variable, value in environment.items():
        for suffix, value_pattern in LINKS:
            match = re.fullmatch(rf"({name}(?:_[A-Z0-9_.]+)?){suffix}", variable)
            if match and re.fullmatch(value_pattern, value):
                links.add(variable)
                aliases |= {match.group(1)} if suffix == "_NAME" else set()
    copied = {variable for variable in environment if any(variable.startswith(f"{alias}_ENV_") for alias in aliases)}
    return links | copied  # Docker copies the environment of the linked container under the alias


def log_service_links(environment: Mapping[str, str], name: str) -> None:
    """Log in one line which variables are ignored, if there are any."""
    if links := sorted(service_links(environment, name)):
        log.info(
            "ignored %d environment variables that Kubernetes or Docker made for a service: %s",
            len(links),
            ", ".join(links),
        )
