"""open_inference_service() loads the bundle of the settings and returns the service that answers requests."""

from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.process.publish import resolve
from service.settings import Settings

# set by a worker of ours that loads BentoML's application for /classify: both use the same inference service
shared: InferenceService | None = None


def open_inference_service(settings: Settings, worker: int = 0) -> InferenceService:
    """Return an inference service whose model has passed its self-check.

    Raises:
        PrunellaError: the bundle or the device is not available, or the self-check fails.
    """
    engine = Engine.open(Bundle.open(resolve(settings.bundle)), settings.runtime(worker))
    engine.self_check()  # also warms the model up
    return InferenceService(engine, settings, worker)
