# Prometheus for tests and demo, without its web pages.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY prometheus promtool /usr/local/bin/
USER 65532:65532
CMD ["prometheus", "--help"]
