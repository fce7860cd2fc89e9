"""What pytest leaves out where an extra is not installed."""

import importlib.util

NEEDED = ("starlette", "uvicorn", "httptools", "prometheus_client")
# Modules that import what the extra `serve` installs; their examples cannot run without.
collect_ignore = (
    []
    if all(importlib.util.find_spec(name) for name in NEEDED)
    else [
        f"src/likewise/service/{name}.py"
        for name in ("application", "routes", "running", "watching")
    ]
)
