"""Service links: variables that Kubernetes and Docker put into a container because some service has a name.

A Service named `prunella` or `prunella-canary` gives PRUNELLA_SERVICE_HOST, PRUNELLA_PORT=tcp://10.96.0.12:3000,
PRUNELLA_CANARY_PORT_3000_TCP_ADDR and the like: they have the prefix of our settings and are none. Name and value
both have to fit, so that a misspelt setting is not taken for a link.
https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
https://docs.docker.com/engine/network/links/#environment-variables
"""

import logging
import re
from collections.abc import Mapping

log = logging.getLogger("prunella")
PORT = r"_PORT_\d+_(?:TCP|UDP|SCTP)"
URL = r"(?:tcp|udp|sctp)://\S+"
LINKS = (  # what follows the service in the name, and the value
    (r"_SERVICE_HOST", r"[0-9A-Fa-f:.]+"),
    (r"_SERVICE_PORT(?:_[A-Z0-9_]+)?", r"\d+"),
    (r"_PORT", URL),
    (rf"{PORT}(?:_START|_END)?", URL),
    (rf"{PORT}_PROTO", r"tcp|udp|sctp|TCP|UDP|SCTP"),
    (rf"{PORT}_PORT(?:_START|_END)?", r"\d+"),
    (rf"{PORT}_ADDR", r"[0-9A-Za-z:.-]+"),
    (r"_NAME", r"/\S+/\S+"),  # Docker only: the container, and its alias
)


def service_links(environment: Mapping[str, str], name: str) -> set[str]:
    """Return the variables that are links to a service called `name` or `name-…`; `name` is in capital letters."""
    links, aliases = set(), set()
    for variable, value in environment.items():
        for suffix, wanted in LINKS:
            match = re.fullmatch(rf"({name}(?:_[A-Z0-9_.]+)?){suffix}", variable)
            if match and re.fullmatch(wanted, value):
                links.add(variable)
                aliases |= {match.group(1)} if suffix == "_NAME" else set()
    copied = {variable for variable in environment if any(variable.startswith(f"{one}_ENV_") for one in aliases)}
    return links | copied  # Docker copies the environment of the linked container


def log_service_links(environment: Mapping[str, str], name: str) -> None:
    """Say in one line which variables are ignored, if there are any."""
    if links := sorted(service_links(environment, name)):
        log.info(
            "ignored %d environment variables that Kubernetes or Docker made for a service: %s",
            len(links),
            ", ".join(links),
        )
