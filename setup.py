"""Installs keras_distill."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "keras_distill/__init__.py").read_text())[1]
README = ROOT / "README.md"

NLP = ["keras-hub>=0.25.1"]
BEAM = ["apache-beam>=2.77"]
TFDS = ["tensorflow-datasets>=4.9.10", "importlib_resources"]
# For phones, browsers and CPUs without TensorFlow: small, and quick to install.
FORMATS = [
    "ai-edge-litert>=2.3",
    "ai-edge-quantizer>=0.10",
    "onnx>=1.23",
    "tf2onnx>=1.17",
    "onnxruntime>=1.32",
    "openvino>=2026.4",
]
SERVING = ["tensorflow-serving-api>=2.19", "grpcio"]  # warm-up requests and clients
NEWER = [*FORMATS, *SERVING, "jax>=0.10"]  # for tests; wheels of these need Python 3.11
EXAMPLES = [
    "scikit-learn>=1.5",
    "matplotlib>=3.9",
    "safetensors>=0.5",
    "tokenizers>=0.21",
    "rouge-score>=0.1.2",
]

setup(
    name="keras-distill",
    version=VERSION,
    description="Knowledge distillation for Keras 3 on TensorFlow, JAX and PyTorch",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords=[
        "keras", "knowledge-distillation", "distillation", "model-compression", "tensorflow", "jax",
        "pytorch",
    ],  # fmt: skip
    python_requires=">=3.10",
    packages=find_packages(include=["keras_distill", "keras_distill.*"]),
    package_data={"keras_distill": ["py.typed"]},
    install_requires=["tensorflow>=2.19", "keras>=3.12", "numpy>=2.0", "absl-py>=2.0"],
    extras_require={
        "nlp": NLP,
        "tfds": TFDS,
        "examples": EXAMPLES,
        "export": FORMATS,  # TensorFlow itself writes SavedModels
        "serving": SERVING,
        "beam": BEAM,
        # MkDocs 2 has another format of settings; ruff formats the signatures of the API pages
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=1.0", "ruff"],
        # pytest 9.2 hides the groups of tests from pytest-xdist 3.8: each process made all fixtures
        "dev": ["pytest>=8,<9.2", "pytest-xdist", "hypothesis>=6.170,<7", "ruff", "setuptools",
                "tensorboard", "pandas", *EXAMPLES, *NLP, *BEAM,
                *(f'{each}; python_version >= "3.11"' for each in NEWER)],
    },
    entry_points={"console_scripts": ["keras-distill = keras_distill.cli.main:main"]},
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
