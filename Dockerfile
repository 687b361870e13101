# The device side in a container, for amd64 and arm64 (docs/devices.md, "In a container"):
#   docker build --tag btc-edge .
#   docker run --rm --read-only --tmpfs /tmp --network none --volume "$PWD/scans:/scans:ro" btc-edge classify -r /scans
# Both stages take one base, since an environment points at its interpreter. No digest of it is
# written here: the tag gets Debian's security updates. Pin your own: --build-arg BASE=NAME@sha256:…
# arm/v7 is left out: no wheels of numpy and OpenCV are published for it.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# A registry of one's own, or a folder of wheels, for a place without the public one.
ARG PIP_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS
# Further packages, e.g. EXTRAS=[dicom,nifti,serve]
ARG EXTRAS=
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY edge_runtime edge_runtime
COPY trainer trainer
COPY export export
RUN ["python3", "-m", "venv", "/opt/btc-edge"]
RUN /opt/btc-edge/bin/pip install --no-cache-dir ".${EXTRAS}" \
 && /opt/btc-edge/bin/pip uninstall --yes setuptools pip

FROM ${BASE}
LABEL org.opencontainers.image.title="btc-edge" \
      org.opencontainers.image.description="Brain-tumour MRI slice classifier. Research use only; not for diagnosis." \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0"
COPY --from=build /opt/btc-edge /opt/btc-edge
# Nothing is written but to /tmp, and nothing of it is run by a shell.
ENV PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
WORKDIR /tmp
# No HEALTHCHECK: most commands end by themselves; ask /healthz of `serve` from outside.
ENTRYPOINT ["/opt/btc-edge/bin/btc-edge"]
CMD ["--help"]
