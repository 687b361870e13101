"""`btc-data check`: `btc-audit` under the name that one looks for beside the others."""

from __future__ import annotations

from trainer.commands.audit import audit_command as check

__all__ = ["check"]
