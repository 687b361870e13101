"""`btc-data check`: `btc-audit` under the name that one looks for beside the others."""

from __future__ import annotations

import copy

from trainer.commands.audit import audit_command

check = copy.copy(audit_command)
check.name = "check"
check.params = [each for each in audit_command.params if each.name != "version"]
