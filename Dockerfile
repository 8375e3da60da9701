# fedtangent on the CPU:
#   docker build -t fedtangent .
#   mkdir -p runs && docker run --rm --user "$(id -u)" -v "$PWD/runs:/work/runs" fedtangent demo
FROM python:3.13-slim

RUN pip install --no-cache-dir uv
ENV UV_SYSTEM_PYTHON=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1
# PyTorch without CUDA, a gigabyte instead of five, from its own index. `--build-arg TORCH=` takes the one of the package index, with CUDA.
ARG TORCH=cpu
RUN uv pip install ${TORCH:+--torch-backend $TORCH} torch torchvision

COPY . /source
RUN uv pip install ${TORCH:+--torch-backend $TORCH} "/source[network]" && rm -rf /source

# Whoever runs it needs no account in here; what libraries keep for themselves goes to /tmp.
ENV HOME=/tmp LOGNAME=person
WORKDIR /work
RUN mkdir runs && chmod 777 . runs
USER 1000
# As Ctrl-C, since a first process would not hear of SIGTERM: a run says how it goes on.
STOPSIGNAL SIGINT
ENTRYPOINT ["fedtangent"]
CMD ["--help"]
