# stream-ft ingest: a small image, without torch or a model. Build it from the root of the repository:
#   docker build -f deploy/docker/ingest.Dockerfile -t stream-ft/ingest .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY constraints.txt deploy/docker/ingest.txt ./
RUN pip install --no-cache-dir -c constraints.txt -r ingest.txt \
  && pip install --no-cache-dir --no-deps -c constraints.txt faust-streaming
COPY pyproject.toml README.md LICENSE ./
COPY stream_ft stream_ft
COPY connectors connectors
RUN pip install --no-cache-dir --no-deps .

FROM python:${PYTHON}
RUN useradd --uid 10001 --user-group --home-dir /var/lib/stream_ft --create-home --shell /usr/sbin/nologin stream_ft
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    STREAM_FT_STATE_DIR=/var/lib/stream_ft \
    STREAM_FT_LOG__JSON_LINES=true \
    STREAM_FT_INGEST__HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/stream_ft
EXPOSE 8082
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8082/readyz', timeout=2)"]
ENTRYPOINT ["stream-ft"]
CMD ["ingest"]
