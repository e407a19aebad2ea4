"""What all commands share: the consoles, the end on an error, and how numbers are shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from edgecache.config.units import format_size
from edgecache.errors import ConfigError, EdgeCacheError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGE = 3

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class CommandError(EdgeCacheError, RuntimeError):
    """A command that cannot be carried out."""


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors into a message and an exit code."""
    try:
        yield
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    except (EdgeCacheError, OSError) as error:
        fail(str(error), EXIT_FAILED)


def fail(message: str, code: int) -> None:
    """Print a message and leave."""
    err.print(f"[bold red]error[/]: {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def size(size_bytes: float) -> str:
    """Show bytes with a binary unit."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} TiB"


def seconds(duration_s: float) -> str:
    """Show a duration with the unit that fits."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if duration_s * scale >= 1:
            return f"{duration_s * scale:.3g} {unit}"
    return f"{duration_s * 1e9:.0f} ns"


def uptime(duration_s: float) -> str:
    """Show a long duration in its two largest units."""
    whole = int(duration_s)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s"


__all__ = ["CommandError", "err", "fail", "format_size", "out", "reported", "seconds", "size"]
