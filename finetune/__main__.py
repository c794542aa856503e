"""``python -m finetune`` is the ``finetune`` command."""

from finetune.system.processes import leave_working_folder

leave_working_folder()

from finetune.cli.main import main  # noqa: E402  only now, for the working folder may hold modules of such names

raise SystemExit(main())
