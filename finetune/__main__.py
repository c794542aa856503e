"""``python -m finetune`` is the ``finetune`` command."""

from finetune.system.processes import leave_working_folder

leave_working_folder()

# Only now, for the working folder may hold modules of such names.
import sys  # noqa: E402

from finetune.cli import evidence  # noqa: E402

if evidence.asked(sys.argv[1:]):  # of a plain checkout, where what the other verbs import may be missing
    raise SystemExit(evidence.main(sys.argv[1:]))

from finetune.cli.main import main  # noqa: E402

raise SystemExit(main())
