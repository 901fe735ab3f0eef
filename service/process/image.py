"""container_image(): the container image that `bentoml build` describes and `bentoml containerize` builds.

BentoML's own image keeps a compiler and git (1.2 GB). Its Dockerfile has no place for a second stage, so the last
command after the packages is followed by one: deploy/image/runtime.Dockerfile. `docker.dockerfile_template` would be
the place for it, but `bentoml containerize` 1.4.39 refuses the copy of the template that it made itself ("Accessing
file outside of current working directory").
"""

from pathlib import Path

from bentoml.images import Image

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "deploy" / "image" / "runtime.Dockerfile"
REQUIREMENTS = ROOT / "service" / "requirements.txt"
PYTHON = "3.11"  # as in bentofile.yaml


def container_image(bundle: Path | None) -> Image | None:
    """Return the image of the service.

    Args:
        bundle: the bundle in BentoML's model store that is packed; None: none is packed.

    Returns:
        None where the files that describe the image are missing: in the image itself, and in an installed package.
    """
    if not STAGE.is_file() or not REQUIREMENTS.is_file():
        return None
    stage = STAGE.read_text(encoding="utf-8")
    if bundle is None:
        stage = stage.replace(" PRUNELLA_BUNDLE=BUNDLE", "")
    else:
        stage = stage.replace("=BUNDLE", "=/home/bentoml/bento/models/" + "/".join(bundle.parts[-2:]))
    return Image(
        base_image=f"python:{PYTHON}-slim",
        distro="none",  # otherwise BentoML installs build-essential and git
        python_version=PYTHON,
        lock_python_packages=False,
        python_requirements=REQUIREMENTS.read_text(encoding="utf-8"),
        post_commands=["true\n" + stage],
    )
