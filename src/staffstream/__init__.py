"""AI staff members that answer in real time and remember.

The public interface: `create_app(settings)` makes an ASGI app, `Settings` says how it behaves. Each package below is
one room; `pyproject.toml` lists which room may import which.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Settings", "__version__", "create_app"]

if TYPE_CHECKING:
    from staffstream.app import create_app
    from staffstream.settings import Settings


def __getattr__(name: str) -> Any:
    """Load the public names on first use: the command line starts without paying for the server."""
    if name == "create_app":
        from staffstream.app import create_app

        return create_app
    if name == "Settings":
        from staffstream.settings import Settings

        return Settings
    raise AttributeError(f"module 'staffstream' has no attribute {name!r}")
