# The HTTP service of `sparse-merit serve`, as an ordinary user in one process: docs/serve.md.
FROM python:3.12-slim

RUN apt-get update && apt-get install --yes --no-install-recommends ffmpeg && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 sparse-merit

# PyTorch for CPUs; remove the line for a GPU.
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE model_card.md /source/
COPY modeling_sparse_merit /source/modeling_sparse_merit
RUN pip install --no-cache-dir "/source[serve,vad]" && rm -r /source

USER sparse-merit
WORKDIR /home/sparse-merit
EXPOSE 8080
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/ready')"]
ENTRYPOINT ["sparse-merit", "serve", "--host", "0.0.0.0", "--token-file", "/run/secrets/sparse-merit-token"]
