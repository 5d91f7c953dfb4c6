# Every service but the trainer, and the operator's command: `docker build -f deploy/images/services.Dockerfile .`
# The Python that the tests run on. For a build that can be repeated to the byte, name a digest:
# --build-arg PYTHON=python@sha256:…
ARG PYTHON=python:3.11-slim-trixie

FROM ${PYTHON} AS packages
COPY deploy/images/requirements-services.txt /requirements.txt
RUN python -m venv /packages \
    && /packages/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
       -r /requirements.txt

FROM ${PYTHON}
ENV PATH=/packages/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=packages /packages /packages
WORKDIR /app
COPY catalog.toml limits.toml oidc.toml prices.toml ./
COPY libs libs
COPY services services
COPY deploy deploy
# Bytecode that depends on the sources alone, not on when they were copied: the root is read-only.
RUN python -m compileall -q --invalidation-mode unchecked-hash libs services deploy
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-m", "deploy.health"]
ENTRYPOINT ["python", "-m", "deploy.server"]
CMD ["--help"]
