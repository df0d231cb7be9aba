# Stands in for NVIDIA's Triton image on CPU, for tests only: the same paths and command line, and of Python what NVIDIA's
# recipe installs. The server is that of the nvidia-pytriton wheel; `onnxruntime` models are served by a backend in
# Python, which lies beside it. There is no entry point.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
# NVIDIA's recipe. Debian's Python refuses pip unless told otherwise, NVIDIA's does not.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
RUN pip3 install --no-cache-dir --upgrade "numpy<2" virtualenv && useradd triton-server --uid 1000
COPY requirements-triton.lock /tmp/
RUN pip3 install --no-cache-dir --no-deps --no-compile --require-hashes -r /tmp/requirements-triton.lock \
 && site=$(echo /usr/local/lib/python3.*/dist-packages) \
 && version=$(python3 -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")') \
 && mkdir -p /opt/tritonserver/bin \
 && mv "$site/pytriton/tritonserver/backends" /opt/tritonserver/backends \
 && mv "$site/pytriton/tritonserver/python_backend_stubs/$version/triton_python_backend_stub" /opt/tritonserver/backends/python/ \
 && mv "$site/pytriton/tritonserver/bin/tritonserver" /opt/tritonserver/bin/tritonserver \
 && mv "$site/nvidia_pytriton.libs" /opt/tritonserver/lib \
 && rm -rf "$site/pytriton" /tmp/requirements-triton.lock
COPY model_builder/triton_backends /opt/tritonserver/backends
# The Python backend embeds the interpreter that it finds on PATH.
ENV PATH=/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LD_LIBRARY_PATH=/opt/tritonserver/lib \
    ORT_DISABLE_TELEMETRY=1
USER 1000:1000
CMD ["tritonserver", "--model-repository=/models"]
