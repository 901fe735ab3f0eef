#!/usr/bin/env bash
# Builds the image from a tiny bundle, runs it, and compares its answers with those of this process.
# Exit code 3: no container engine here, nothing was tested.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin

engine=${BENTOML_CONTAINERIZE_BACKEND:-}
if [ -z "$engine" ]; then
  if docker info >/dev/null 2>&1; then engine=docker
  elif command -v podman >/dev/null; then engine=podman
  else
    echo "NOT TESTED: the container test needs a running docker, or podman; neither was found" >&2
    exit 3
  fi
fi

work=$(mktemp -d)
name=prunella-test-$$
image=localhost/$name:latest # without a registry podman asks which one is meant
cleanup() {
  "$engine" rm --force "$name" >/dev/null 2>&1 || true
  "$engine" rmi --force "$image" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT
export BENTOML_HOME=$work/bentoml BENTOML_DO_NOT_TRACK=True
mkdir -p "$BENTOML_HOME"

bundle=$("$bin/python" tests/container_steps.py make "$work/store" | tail -n 1)
"$bin/prunella" publish "$bundle"
bento=$("$bin/bentoml" build --output tag | sed -n 's/^__tag__://p')
"$bin/bentoml" containerize "$bento" --backend "$engine" --image-tag "$image"
"$engine" image inspect --format 'image size: {{.Size}} bytes' "$image"

"$engine" run --rm --entrypoint /app/.venv/bin/python "$image" -c '
import importlib.util, sys
found = [name for name in ("torch", "transformers", "optimum", "onnx", "sklearn") if importlib.util.find_spec(name)]
sys.exit(f"the image holds {found}, which only training needs" if found else 0)'

port=$("$bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
"$engine" run --detach --name "$name" --network host "$image" serve --host 127.0.0.1 --port "$port" >/dev/null
for _ in $(seq 150); do
  if curl --silent --fail --max-time 2 --output /dev/null "$url/readyz"; then break; fi
  sleep 0.2
done
curl --silent --show-error --fail --max-time 2 "$url/readyz" || { "$engine" logs "$name"; exit 1; }
"$bin/python" tests/container_steps.py check "$url" "$bundle"

"$engine" stop --time 10 "$name" >/dev/null
code=$("$engine" inspect --format '{{.State.ExitCode}}' "$name")
[ "$code" -eq 0 ] || { "$engine" logs "$name"; echo "the container ended with exit code $code, wanted 0" >&2; exit 1; }
echo "container test passed with $engine: the image serves $bento and answers as the library does"
