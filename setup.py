"""Declares the package; requirements.txt holds the full set of pins that was tested."""

from pathlib import Path

from setuptools import find_packages, setup

SERVING = [
    "grpcio>=1.48,<1.66",
    # The last of the two whose messages TensorFlow's protobuf can read.
    "grpcio-health-checking==1.48.2",
    "grpcio-reflection==1.48.2",
    "prometheus-client>=0.20,<1",
]
PIPELINE = [
    "tfx==1.15.1",
    "apache-beam==2.65.0",
    # TFX 1.15.1 needs a setuptools with pkg_resources; newer Google clients leave Python 3.10.
    "setuptools<81",
    "google-api-core<2.26",
    "google-auth<2.41",
    "google-cloud-aiplatform==1.71.0",
    # Of Kubeflow only the messages: its own packages ask for another pydantic.
    "kfp-pipeline-spec==0.1.16",
]

setup(
    name="piano_tf",
    version="0.1.0",
    description="A personalised listwise re-ranker for music search, from raw logs to a server",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["piano_tf*", "tfx_pipeline*", "serving*"]),
    package_data={
        "serving": ["README.md", "examples/*"],
        "piano_tf": ["py.typed", "*.jinja", "evaluation/*.jinja"],
        "tfx_pipeline": ["*.jinja", "events/*.jinja", "schemas/*.pbtxt"],
    },
    python_requires=">=3.10,<3.11",
    install_requires=[
        "tensorflow==2.15.1",
        "tensorflow-ranking==0.5.5",
        "tensorflow-recommenders==0.7.7",
        # The messages of warm-up requests, which every exported model carries.
        "tensorflow-serving-api==2.15.1",
        "click>=8",
        "jinja2>=3",
        "keras-tuner>=1.4,<2",
        "lightgbm>=4.7,<5",
        "matplotlib>=3.10,<4",
        "numpy<2",
        "pyarrow>=10",
        "pydantic>=2,<3",
        "rich>=13",
        "scipy>=1.12,<2",
    ],
    extras_require={
        "pipeline": PIPELINE,
        "serving": SERVING,
        "bm25": ["bm25s>=0.3,<0.4"],
        "gpu": ["tensorflow[and-cuda]==2.15.1"],
        "dev": [
            "bm25s>=0.3,<0.4",
            "cryptography",
            "hypothesis>=6",
            "mypy>=2",
            "psutil>=5",
            "pytest>=9",
            "pytest-xdist>=3.8",
            "regex",
            "ruff>=0.17",
            *PIPELINE,
            *SERVING,
        ],
    },
    entry_points={"console_scripts": ["piano=piano_tf.cli:main"]},
)
