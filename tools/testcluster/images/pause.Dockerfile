# What holds each pod's namespaces open.
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
