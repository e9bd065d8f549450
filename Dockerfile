# The image of every stage on Kubeflow or Vertex.
#
#     docker build --tag IMAGE .
FROM python:3.10.13-slim

# LightGBM's library, and the compiler of what has no wheel (pyfarmhash, crcmod).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /piano
# The requirements first: they change less often than the code.
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .

ENV TF_CPP_MIN_LOG_LEVEL=3
WORKDIR /
ENTRYPOINT ["python"]
