"""What ``python -m gausstools`` can do, one module for each command, and the processes that share their work."""

__all__ = []
