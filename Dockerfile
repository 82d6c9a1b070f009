# The image is a BIDS App:  IMAGE BIDS_DIR OUT_DIR participant [group] -c YAML
# It runs read-only, without network, as any user: all that is written goes to OUT_DIR, --work-dir and /tmp.
# docs/container.md says how; Apptainer.def makes the same for Apptainer.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python3 -m venv /opt/venv
WORKDIR /src
COPY requirements.lock ./
RUN /opt/venv/bin/pip install --no-cache-dir --no-compile --require-hashes --only-binary :all: -r requirements.lock
COPY . .
# Bytecode is made here, since a read-only image cannot keep it; that of the libraries' tests, which take a
# tenth of the image with it, is not. What installs and builds is not needed any more.
RUN /opt/venv/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && /opt/venv/bin/python -m compileall -q -x '/tests/' /opt/venv/lib \
    && /opt/venv/bin/pip uninstall --yes setuptools pip

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG VCS_REF=unknown
LABEL org.opencontainers.image.title="somite" \
      org.opencontainers.image.description="BIDS diffusion MRI in, segment-level DTI tables out: lumbar spine, thigh and brain" \
      org.opencontainers.image.authors="The Somite authors" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${VCS_REF}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["somite", "run"]
