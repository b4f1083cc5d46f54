"""Are the numbers of README and docs those of kept runs, and do today's rules still say the same of these?

    python evidence.py                                      check everything: no training, no data
    python evidence.py --add=results/ntk/drift              keep a run: evidence/ntk/drift/default
    python evidence.py --add=results/ntk/drift --name=wide  keep another one beside it: evidence/ntk/drift/wide
    python evidence.py --add=results/ntk/drift --figures=ntk_against_width.png    and a figure that a page shows
    python evidence.py --reports=results/kept               a report.html of every kept run; `python docket.py
                                                            results/kept` then has rows that open them
    python evidence.py --write                              write the pages anew from docs/templates and evidence
    python evidence.py --accept                             keep today's verdicts in place of earlier ones: after a
                                                            rule was changed, with the change told in docs/verdicts.md

docs/evidence.md says how a template quotes a run.
"""
import sys
from pathlib import Path

from absl import app, flags

import experiments  # noqa: F401 - imports TensorFlow quietly
from harness import command_line
from harness import evidence as kept_runs
from reporting import pages, plain_flags

FLAGS = flags.FLAGS


def main(_):
    root = Path(FLAGS.root)
    place = root / kept_runs.PLACE
    try:
        check()
        if FLAGS.add:
            run = kept_runs.add(FLAGS.add, place, FLAGS.name, FLAGS.figures)
            print(f"{place / run.name}: {run.verdict.outcome}, {len(run.results)} configs")
            return
        if FLAGS.accept:
            for name, folder in kept_runs.folders(place).items():
                for line in kept_runs.accept(folder, name):
                    print(f"{name}: {line}")
            return
        problems, runs = kept_runs.check_runs(root)
        if FLAGS.write and problems:
            print("\n".join(problems))
            raise ValueError("the kept runs are not in order, so no page was written")
        if FLAGS.write:
            for page in kept_runs.write_pages(root, runs):
                print(f"{page.relative_to(root)} was written anew")
        problems += kept_runs.check_pages(root, runs)
        if FLAGS.reports:
            print(f"{FLAGS.reports}: reports of {len(kept_runs.write_reports(runs, place, FLAGS.reports))} kept runs")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(f"error: README, docs and verdicts do not follow from the kept runs, in places: {len(problems)}")
    print(f"{len(runs)} kept runs are judged as before, and every page follows from its template and them.")


def define(flag_values=FLAGS):
    """Define the script's flags."""
    where = {"module_name": command_line.RUN, "flag_values": flag_values}
    flags.DEFINE_string("add", None, "run folder to keep", **where)
    flags.DEFINE_string("name", "default", "what the run that is kept is called (default: default)", **where)
    flags.DEFINE_list("figures", [], "figures of that run to keep, those that pages show (default: none)", **where)
    flags.DEFINE_string("reports", None, "folder to write a report of every kept run to (default: none)", **where)
    flags.DEFINE_bool("write", False, "write the pages anew (default: false)", **where)
    flags.DEFINE_bool("accept", False, "keep the verdicts by today's rules (default: false)", **where)
    flags.DEFINE_string("root", str(Path(__file__).parent), "the project's folder (default: this script's)", **where)


def check(flag_values=FLAGS):
    """Raise ValueError where flags ask for what cannot be done: a typing error must not end in a green line."""
    root = Path(flag_values.root)
    for folder in (kept_runs.PLACE, pages.TEMPLATES):
        if not (root / folder).is_dir():
            raise ValueError(
                f"{root} has no folder {folder}: --root is a project with {kept_runs.PLACE} and {pages.TEMPLATES}"
            )
    jobs = ("add", "reports", "write", "accept")
    asked = [f"--{name}" for name in jobs if flag_values[name].value not in (None, False)]
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} are asked for at once: give them one after the other")
    if flag_values.add == "":
        raise ValueError("--add names no run folder: write --add=results/ntk/drift")
    if flag_values.reports == "":
        raise ValueError("--reports names no folder: write --reports=results/kept")
    if flag_values["name"].present and flag_values.add is None:
        raise ValueError(f"--name={flag_values.name} is what a run to keep is called: it needs --add=<run folder>")
    if flag_values.figures and flag_values.add is None:
        figures = ",".join(flag_values.figures)
        raise ValueError(f"--figures={figures} are of a run to keep: they need --add=<run folder>")


if __name__ == "__main__":
    define()
    app.run(main, flags_parser=plain_flags.parse_without_arguments)
