# The trainer, the one image with torch and CUDA: `docker build -f deploy/images/trainer.Dockerfile .`
# The Python that the tests run on. For a build that can be repeated to the byte, name a digest:
# --build-arg PYTHON=python@sha256:…
ARG PYTHON=python:3.11-slim-trixie

FROM ${PYTHON} AS packages
COPY deploy/images/requirements-trainer.txt /requirements.txt
RUN python -m venv /packages \
    && /packages/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
       -r /requirements.txt

FROM ${PYTHON}
# torch.compile and Triton call a compiler at run time; without one, training goes on uncompiled.
# Unpinned, since Debian keeps no old versions to pin: the base image's digest says which release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# Everything that is written at run time goes below /scratch: a volume, as the root is read-only.
ENV PATH=/packages/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/scratch/home \
    HF_HOME=/scratch/hub \
    TORCHINDUCTOR_CACHE_DIR=/scratch/compiled \
    TRITON_CACHE_DIR=/scratch/triton \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages /packages /packages
WORKDIR /app
COPY catalog.toml limits.toml oidc.toml prices.toml ./
COPY libs libs
COPY services services
COPY deploy deploy
# Bytecode that depends on the sources alone, not on when they were copied: the root is read-only.
RUN python -m compileall -q --invalidation-mode unchecked-hash libs services deploy \
    && install -d -o 10001 -g 10001 /scratch /models
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-m", "deploy.health"]
ENTRYPOINT ["python", "-m", "deploy.server"]
CMD ["service", "trainer"]
