"""The one thing that pyproject.toml cannot say: which cffi module to compile."""

from setuptools import setup

setup(cffi_modules=["pykvm/kvm/_build.py:ffibuilder"])
