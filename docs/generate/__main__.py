"""Brings the generated pages up to date.

python -m docs.generate          writes the pages that were out of date; exit status 1 if there were any
python -m docs.generate --check  writes nothing, and says which pages are out of date
"""

import argparse
import sys

from docs.generate.pages import ROOT, pages


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = 0
    for path, text in pages():
        file = ROOT / path
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if check:
            print(f"{path} is out of date: python -m docs.generate makes it anew", file=sys.stderr)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            print(f"{path} was out of date and has been made anew: look at it and commit it", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
