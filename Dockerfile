# redisrepl as a container: the daemon alone, as PID 1, under a user that owns nothing.
#
#   docker build --tag redisrepl .
#   docker run --rm redisrepl --help
#
# Beside a Redis: deploy/compose.yaml. It writes to /var/lib/redisrepl only, so the root file system may be read-only.

ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY redisrepl redisrepl
RUN pip wheel --no-cache-dir --wheel-dir /wheels .
RUN python -m venv --without-pip /opt/redisrepl
RUN pip --python /opt/redisrepl/bin/python install --no-cache-dir --no-index --find-links /wheels redisrepl
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
HEALTHCHECK NONE
ENTRYPOINT ["redisrepl"]
