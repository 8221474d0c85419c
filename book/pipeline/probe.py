"""What a run used. This file's text is executed as the last cell of each run, in the chapter's own kernel.

It imports nothing of gausstools or torch, so that the modules it reports are those that the chapter used.
"""


def _report() -> dict:
    import importlib.metadata
    import platform
    import sys
    from pathlib import Path

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def processor() -> str:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return next(iter(names), None) or platform.processor() or platform.machine()

    torch = sys.modules.get("torch")
    return {
        "modules": [
            module.__file__
            for name, module in sorted(sys.modules.items())
            if name.split(".")[0] == "gausstools" and getattr(module, "__file__", None)
        ],
        "python": platform.python_version(),
        "torch": version("torch"),
        "gausstools": version("gausstools"),
        "processor": processor(),
        "gpu": torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None,
    }


if __name__ == "__main__":
    from IPython.display import display

    display({"application/vnd.gausstools.probe+json": _report()}, raw=True)
