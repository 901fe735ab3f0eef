# What follows BentoML's own steps (base image, user, virtual environment in /app/.venv, packages with their hashes) in the
# Dockerfile of `bentoml build`; service/process/image.py puts it there. After it, BentoML copies the bento and sets user
# and entry point. BUNDLE is the folder of the packed model.

# Files that no Python process opens: packages that only download models, ONNX Runtime's library for C programs and its
# converters, tests, and sources of compiled modules.
RUN cd /app/.venv/lib/python3*/site-packages && \
    uv pip uninstall huggingface-hub hf-xet tqdm filelock && \
    rm -r onnxruntime/capi/libonnxruntime.so.* onnxruntime/transformers onnxruntime/tools onnxruntime/quantization && \
    find . -type d -name tests -prune -exec rm -r {} + && \
    find . -type f \( -name '*.a' -o -name '*.c' -o -name '*.h' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.pyx' \) -delete

# The base without installers, manuals and translations, and without Perl beyond what Debian itself needs. BentoML wants
# its folders to exist, also on a read-only file system. Any user may read everything.
RUN dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 'python3-pip*' 'python3-setuptools*' python3-wheel \
        perl 'perl-modules-*' 'libperl5*' 2>/dev/null | sed -n 's/^ii *//p' | xargs -r dpkg --purge --force-depends && \
    if [ -x /usr/local/bin/pip ]; then /usr/local/bin/pip uninstall --yes uv setuptools wheel pip; fi && \
    find /usr/share/doc -type f ! -name copyright -delete && \
    rm -rf /usr/share/man /usr/share/info /usr/share/locale /usr/share/python-wheels /usr/lib/python3*/ensurepip \
        /usr/local/lib/python3*/ensurepip /usr/local/bin/uv /usr/local/bin/uvx /usr/local/lib/python3*/dist-packages/uv* \
        /var/lib/apt/lists/* /var/cache/* /var/log/* /root/.cache && \
    cd /home/bentoml && mkdir -p bentos models envs tmp && chmod -R a+rX /app /home/bentoml

# Bytecode of the service, which a read-only file system could not store later. BentoML copies the sources again below.
COPY ./src ./src/
RUN python -m compileall -q --invalidation-mode unchecked-hash src

# one layer, so that what was removed takes no space
FROM scratch
COPY --from=base-container / /
ENV PATH=/app/.venv/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
ENV BENTO_PATH=/home/bentoml/bento BENTOML_HOME=/home/bentoml/ BENTOML_CONTAINERIZED=true
ENV BENTOML_DO_NOT_TRACK=True BENTOML_DISABLE_GPU_ALLOCATION=1 ORT_DISABLE_TELEMETRY=1
ENV HOME=/tmp PYTHONPATH=/home/bentoml/bento/src PRUNELLA_BUNDLE=BUNDLE
WORKDIR /home/bentoml/bento
# without arguments the server starts at once; `serve …` is `bentoml serve …`, which takes as long again to be imported
CMD ["python", "-m", "service.process.launch", "--host", "0.0.0.0"]
