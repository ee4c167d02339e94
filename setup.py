"""What pyproject.toml cannot say: which cffi module to compile, and what to do where there is no compiler."""

import os
import shlex
import shutil
import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext


class BuildExtension(build_ext):
    """Looks for the C compiler first: what setuptools says of a missing one is the end of a long traceback."""

    def run(self) -> None:
        command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "gcc"
        compiler = shlex.split(command)[0]
        if shutil.which(compiler) is None:
            raise SystemExit(
                f"pykvm: no C compiler ({compiler}), and a part of pykvm is compiled for this machine. "
                "On Debian or Ubuntu: sudo apt-get install gcc libc6-dev python3-dev"
            )
        super().run()


setup(cffi_modules=["pykvm/kvm/_build.py:ffibuilder"], cmdclass={"build_ext": BuildExtension})
