"""All runs on one page: which claims were tried, and what came out.

    python docket.py                            docket.html of all run folders below results/
    python docket.py results /mnt/shared/runs   of several folders
    python docket.py --compare                  and what differs between two runs of the same claim

The page needs nothing but itself. Its links to reports are relative: move it together with the runs.
"""
import sys
from pathlib import Path

from absl import app, flags

from reporting import docket, docket_html, files, plain_flags

FLAGS = flags.FLAGS


def main(arguments):
    out = Path(FLAGS.out)
    try:
        runs = docket.find(arguments[1:] or ["results"])
        with files.atomic(out) as stream:
            stream.write(docket_html.page(runs, out.parent, compare=FLAGS.compare))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {out} cannot be written: {error.strerror or error}")
    print(f"{out}: {docket_html.describe(runs)}")


if __name__ == "__main__":
    flags.DEFINE_string("out", "docket.html", "the page to write (default: docket.html)")
    flags.DEFINE_bool("compare", False, "two runs of the same claim side by side, those first that disagree")
    app.run(main, flags_parser=plain_flags.parse)
