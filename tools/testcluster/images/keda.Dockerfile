# KEDA for benchmarks: its operator, and the adapter that hands its metrics to autoscalers.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY keda-operator keda-adapter /usr/local/bin/
USER 65532:65532
CMD ["keda-operator", "--help"]
