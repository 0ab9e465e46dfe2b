# syntax=docker/dockerfile:1
# The one image of all of mpslice's programs. `make image` builds the same tree without an engine.
#
#   docker build --tag registry.example.com/mpslice:0.1.0 .
#
#   docker buildx build --platform linux/amd64,linux/arm64 --tag registry.example.com/mpslice:0.1.0 .
#
# The base is a manifest list, so one digest serves every architecture, and nothing below names one:
# packages and wheels are those of the system that a stage runs on.
ARG BASE=debian:bookworm-slim
ARG BASE_DIGEST=sha256:96e378d7e6531ac9a15ad505478fcc2e69f371b10f5cdf87857c4b8188404716

FROM ${BASE}@${BASE_DIGEST} AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv
WORKDIR /src
COPY hack/uv.lock hack/
RUN python3 -m venv /uv && /uv/bin/pip install --quiet --require-hashes -r hack/uv.lock
# The dependencies first: they change less often than the project.
COPY requirements-image.lock ./
COPY hack/image hack/image
RUN python3 hack/image/install.py dependencies --uv /uv/bin/uv
COPY . .
RUN python3 hack/image/install.py project --uv /uv/bin/uv

FROM ${BASE}@${BASE_DIGEST}
COPY hack/image/packages.txt /tmp/packages.txt
RUN apt-get update -qq \
    && apt-get upgrade -y -qq \
    && xargs apt-get install -y -qq --no-install-recommends </tmp/packages.txt \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /tmp/packages.txt
COPY --from=build /opt/mpslice/dependencies /opt/mpslice/dependencies
COPY --from=build /opt/mpslice/project /opt/mpslice/project
COPY --from=build /opt/mpslice/bin /opt/mpslice/bin
ENV PATH=/opt/mpslice/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
LABEL org.opencontainers.image.title=mpslice \
      org.opencontainers.image.description="GPU memory slices for Kubernetes pods" \
      org.opencontainers.image.licenses=Apache-2.0
CMD ["kubectl-mpslice", "--help"]
