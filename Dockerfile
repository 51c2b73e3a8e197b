# svs-unet in a container, on a CPU:
#     docker build -t svs-unet .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/music" svs-unet separate song.mp3 -o stems
# On NVIDIA GPUs (the container then needs --gpus all), and with the packages of another extra:
#     docker build -t svs-unet --build-arg TORCH=cu126 --build-arg EXTRAS=[torch,ray] .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
# For extras with torch, its builds at download.pytorch.org/whl/<TORCH>: cpu, cu126, cu128 ...
ARG TORCH=cpu
ARG EXTRAS=
WORKDIR /source
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY svs_unet_plugin svs_unet_plugin
RUN python -m venv /opt/svs-unet && \
    /opt/svs-unet/bin/pip install --no-cache-dir -c constraints.txt \
        --extra-index-url "https://download.pytorch.org/whl/${TORCH}" ".${EXTRAS}"

FROM python:${PYTHON}-slim
# The newest ffmpeg that Debian has for this image.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends ffmpeg && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 1000 --create-home svs && chmod 1777 /home/svs
COPY --from=build /opt/svs-unet /opt/svs-unet
# Weights of the Hugging Face Hub are kept in HOME; any --user may write there.
ENV PATH=/opt/svs-unet/bin:$PATH HOME=/home/svs
USER 1000
WORKDIR /music
ENTRYPOINT ["svs-unet"]
CMD ["--help"]
