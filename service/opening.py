"""open_desk(): the settings → a desk that is ready to answer."""

from service.bundle import Bundle
from service.desk import Desk
from service.engine import Engine
from service.publish import resolve
from service.settings import Settings

shared: Desk | None = None  # of a worker of ours that loads BentoML's application beside it, for /classify


def open_desk(settings: Settings, worker: int = 0) -> Desk:
    """Return a desk whose model has passed its self-check.

    Raises:
        PrunellaError: the bundle or the device cannot be had.
    """
    engine = Engine.open(Bundle.open(resolve(settings.bundle)), settings.runtime(worker))
    engine.self_check()  # also the warm-up
    return Desk(engine, settings, worker)
