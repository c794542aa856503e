"""The ``finetune`` command.

``tasks/`` and ``configs/`` of a checkout are in the package as links. Where git makes no links (core.symlinks
false, as on many a Windows) files of text stand there, and no import of the command's own could say so.
"""

import os
import sys

if any(os.path.isfile(os.path.join(os.path.dirname(__file__), "..", link)) for link in ("tasks", "configs")):
    print(
        "finetune: error: finetune/tasks and finetune/configs are links, and this checkout has files of text "
        "in their place: type git config core.symlinks true, then git checkout -- finetune (on Windows in "
        "developer mode, or in WSL), or install the wheel",
        file=sys.stderr,
    )
    raise SystemExit(2)
