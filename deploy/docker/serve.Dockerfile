# stream-ft serve. Build it from the root of the repository:
#   docker build -f deploy/docker/serve.Dockerfile -t stream-ft/serve .
# For a GPU; the wheels of torch bring CUDA, the host needs NVIDIA's container toolkit:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 -f deploy/docker/serve.Dockerfile ...
# The model of the demo is baked in. Without it (EXTRAS=otel), mount a folder with a model and name it:
#   docker run -v /my/model:/models/base:ro -e STREAM_FT_MODEL__BASE=/models/base ...
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=demo,otel
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
# The slow and large part first: it changes only with the version of torch.
COPY constraints.txt ./
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY stream_ft stream_ft
COPY connectors connectors
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}
RUN useradd --uid 10001 --user-group --home-dir /var/lib/stream_ft --create-home --shell /usr/sbin/nologin stream_ft \
  && install -d -o stream_ft -g stream_ft /var/lib/stream_ft/registry /var/cache/stream_ft
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/var/cache/stream_ft/huggingface \
    STREAM_FT_STATE_DIR=/var/lib/stream_ft \
    STREAM_FT_MODEL__CACHE_DIR=/var/cache/stream_ft \
    STREAM_FT_LOG__JSON_LINES=true \
    STREAM_FT_SERVE__HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/lib/stream_ft
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["stream-ft"]
CMD ["serve"]
