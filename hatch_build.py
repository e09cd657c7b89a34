"""The build hook: compiles the kernels into the wheel, or says why it could not and leaves it pure Python."""

from __future__ import annotations

import os
import runpy
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = "archcost/kernels/_lib"


class KernelsHook(BuildHookInterface):
    """An editable install gets the libraries in place, a wheel has them from a temporary folder."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        script = runpy.run_path(str(Path(self.root, "archcost/kernels/build.py")))
        if version == "editable":
            target = Path(self.root, _FOLDER)
        else:
            self._temporary = tempfile.TemporaryDirectory()
            target = Path(self._temporary.name)
            build_data["force_include"][str(target)] = _FOLDER
        try:
            if os.environ.get("ARCHCOST_NO_KERNELS", "") not in ("", "0"):
                raise script["BuildError"]("switched off by ARCHCOST_NO_KERNELS when archcost was installed")
            script["build"](target, jobs=os.cpu_count() or 1)
        except script["BuildError"] as error:
            script["note_failure"](target, str(error))
            self.app.display_warning(f"archcost is installed without its compiled kernels: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_temporary"):
            self._temporary.cleanup()
