# fedtangent on the CPU:
#   docker build -t fedtangent .
#   docker run --rm -v "$PWD/runs:/work/runs" fedtangent demo
FROM python:3.13-slim

RUN pip install --no-cache-dir uv
ENV UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
# PyTorch without CUDA, a gigabyte instead of six; what follows keeps it.
RUN uv pip install --torch-backend cpu torch torchvision

COPY . /source
RUN uv pip install --torch-backend cpu "/source[network]" && rm -rf /source

RUN useradd --create-home person && mkdir -p /work/runs && chown -R person /work
USER person
WORKDIR /work
ENTRYPOINT ["fedtangent"]
CMD ["--help"]
