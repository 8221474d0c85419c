"""What a run used. This file's text is executed as the last cell of each run, in the chapter's own kernel.

It imports nothing of gausstools or torch, so that the modules it reports are those that the chapter used.
"""


def _report() -> dict:
    import importlib.metadata
    import platform
    import sys
    from contextlib import suppress
    from pathlib import Path

    modules = [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "gausstools"]
    versions = dict.fromkeys(("torch", "gausstools"))
    for package in versions:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # elsewhere than on Linux, and on processors without such a line
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    torch = sys.modules.get("torch")
    return {
        "modules": [module.__file__ for module in modules if getattr(module, "__file__", None)],
        "python": platform.python_version(),
        **versions,
        "processor": processor,
        "gpu": torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None,
    }


if __name__ == "__main__":
    from IPython.display import display

    display({"application/vnd.gausstools.probe+json": _report()}, raw=True)
