# whim in a container, for CPUs:  docker build -t whim .
# for GPUs:  docker build --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t whim:cuda .
# Run by an ordinary user, its file system read-only; the data folder and /tmp alone are written to, by whoever calls it:
#   docker run --rm --user "$(id -u):$(id -g)" --read-only --tmpfs /tmp:exec --shm-size 4g -v "$PWD:/data" whim run --videos videos --data made
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# wget: by it KubeRay before 1.6 asks whether a pod lives, and ends those that have none
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv wget \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/source
COPY pyproject.toml constraints.txt README.md LICENSE whim.py ./
COPY fitting fitting
COPY hands hands
COPY manifests manifests
COPY pipeline pipeline
COPY stages stages
COPY studio studio
COPY training training
RUN python3 -m venv /opt/whim \
    && /opt/whim/bin/pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" -c constraints.txt '.[detectors,training]'
WORKDIR /data
ENV PATH=/opt/whim/bin:$PATH WHIM_WEIGHTS=/opt/weights HOME=/data XDG_CACHE_HOME=/tmp/cache NUMBA_CACHE_DIR=/tmp/numba \
    RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled
# The open networks lie in the image; licensed ones are mounted: -v ~/weights:/opt/weights
RUN python -m stages.detectors.mediapipe.models \
    && useradd --uid 10001 --no-create-home --home-dir /data whim && chown whim /data
USER 10001
VOLUME /data
ENTRYPOINT ["whim"]
CMD ["--help"]
