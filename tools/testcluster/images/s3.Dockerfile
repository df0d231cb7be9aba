# An S3 server for tests and demo: VersityGW over a folder, in which each folder is a bucket.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY versitygw /usr/local/bin/
USER 65532:65532
CMD ["versitygw", "--port", ":9000", "posix", "/data"]
