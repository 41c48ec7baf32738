# redisrepl as a container: the daemon alone, as PID 1, under a user that owns nothing.
#
#   docker build --tag redisrepl .
#   docker run --rm redisrepl --help
#
# Beside a Redis: deploy/compose.yaml. It writes to /var/lib/redisrepl only, so the root file system may be read-only.

# The base is named by its digest (Python 3.13.15 of 2026-08-25, for amd64, arm64 and others), so it never changes. For
# a newer one:
#
#   docker buildx imagetools inspect python:3.13-slim-bookworm      # says its digest
#   docker build --build-arg PYTHON=3.13-slim-bookworm@sha256:... --tag redisrepl .

ARG PYTHON=3.13-slim-bookworm@sha256:cbd229d7b9bd041012af758ce5ffd807a6518d76493ce9035d208f1db9ceff1e

FROM python:${PYTHON} AS build
WORKDIR /src
COPY release/requirements.txt release/build-requirements.txt release/
RUN python -m venv /build/tools && python -m venv --without-pip /opt/redisrepl
RUN /build/tools/bin/pip install --no-cache-dir --require-hashes -r release/build-requirements.txt
RUN /build/tools/bin/pip --python /opt/redisrepl/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r release/requirements.txt
COPY pyproject.toml README.md LICENSE hatch_build.py ./
COPY release release
COPY redisrepl redisrepl
RUN /build/tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /build/wheels .
RUN /build/tools/bin/pip --python /opt/redisrepl/bin/python install --no-cache-dir --no-deps --no-index /build/wheels/*.whl
RUN install -d -m 700 /state

FROM python:${PYTHON}
ARG VERSION=2.0.0
LABEL org.opencontainers.image.title="redisrepl" \
      org.opencontainers.image.description="Keeps a site's Redis namespace and a hub behind Webdis equal, both ways, over mutual-TLS HTTPS." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/redisrepl /opt/redisrepl
COPY --from=build --chown=10001:10001 /state /var/lib/redisrepl
ENV PATH=/opt/redisrepl/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STATE_DIRECTORY=/var/lib/redisrepl
USER 10001:10001
VOLUME /var/lib/redisrepl
STOPSIGNAL SIGTERM
# Well, by its own word. A first snapshot may take its time.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m CMD ["redisrepl", "status"]
ENTRYPOINT ["redisrepl"]
