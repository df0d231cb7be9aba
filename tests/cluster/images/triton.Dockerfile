# Stands in for NVIDIA's Triton image on CPU, for tests only: the same paths and command line. The server is that of the
# nvidia-pytriton wheel; `onnxruntime` models are served by a backend in Python.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY requirements-triton.lock /tmp/
RUN python3 -m venv /opt/python \
 && /opt/python/bin/pip install --no-cache-dir --no-deps --no-compile --require-hashes -r /tmp/requirements-triton.lock \
 && site=$(echo /opt/python/lib/python3.*/site-packages) \
 && version=$(python3 -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")') \
 && mkdir -p /opt/tritonserver/bin \
 && mv "$site/pytriton/tritonserver/backends" /opt/tritonserver/backends \
 && mv "$site/pytriton/tritonserver/python_backend_stubs/$version/triton_python_backend_stub" /opt/tritonserver/backends/python/ \
 && mv "$site/pytriton/tritonserver/bin/tritonserver" /opt/tritonserver/bin/tritonserver \
 && mv "$site/nvidia_pytriton.libs" /opt/tritonserver/lib \
 && rm -rf "$site/pytriton" /tmp/requirements-triton.lock
COPY model_builder/triton_backends /opt/tritonserver/backends
# The Python backend embeds the interpreter that it finds on PATH.
ENV PATH=/opt/tritonserver/bin:/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LD_LIBRARY_PATH=/opt/tritonserver/lib \
    ORT_DISABLE_TELEMETRY=1
USER 1000:1000
CMD ["tritonserver", "--model-repository=/models"]
