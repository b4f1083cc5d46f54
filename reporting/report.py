"""What a person gets to see of a run: report.md, results.csv, flags.cfg, figures, and the same in short on the terminal."""
import platform
import shlex
from pathlib import Path

import pandas as pd

from reporting import files, tables
from reporting.run_folder import Run, versions


def write_report(folder, experiment, results, verdict, *, script, name, fields, flags, seconds, quiet=False):
    """Write everything above into `folder`, and print the essence unless quiet.

    fields: names of the config's fields.  flags: lines of an absl flag file that repeats the run.
    """
    table = results.table
    figures = save_figures(folder, experiment, results)
    with files.atomic(folder / "flags.cfg") as stream:
        stream.write("\n".join(flags) + "\n")
    with files.atomic(folder / "results.csv") as stream:
        everything(folder, table).to_csv(stream, index=False)
    diverged = table[table["diverged_epoch"].notna()] if "diverged_epoch" in table else table.iloc[:0]
    summary = tables.summary(table, fields, experiment.MEASURES)
    repeat = f"python {script}.py --flagfile={shlex.quote(str(folder / 'flags.cfg'))}"
    board = f"tensorboard --logdir={shlex.quote(str(folder / 'tensorboard'))}"
    made = ", ".join(f"{name} {value}" for name, value in versions().items())
    lines = [
        f"# {script}: {name}",
        f"**Claim.** {experiment.CLAIM.sentence} ({experiment.CLAIM.source})",
        f"**Verdict.** {verdict}",
        f"**Test.** {verdict.test}",
        "## Means with 95 % t-intervals over seeds",
        tables.markdown(summary),
        *(["## Diverged", tables.markdown(diverged[["config_id", "diverged_epoch"]])] if len(diverged) else []),
        "## Figures",
        *(f"![{name}](figures/{name}.png)" for name in figures),
        "## How this was made",
        f"Repeat it: `{repeat}`\n\nLook at the training: `{board}`\n\nEvery config: [results.csv](results.csv), "
        f"flags: [flags.cfg](flags.cfg)\n\nVersions: {made}. Machine: {platform.platform()}, {platform.machine()}. "
        f"Seconds: {table['seconds'].sum():.1f} over {len(table)} configs, {seconds:.1f} in this call.",
    ]
    with files.atomic(folder / "report.md") as stream:
        stream.write("\n\n".join(lines) + "\n")
    if not quiet:
        print_report(folder, experiment, summary, verdict, len(diverged), figures, board)


def save_figures(folder, experiment, results):
    """Save every figure of the experiment as figures/<name>.png; returns the names."""
    figures = experiment.figures(results)
    for name, figure in figures.items():
        with files.atomic(folder / "figures" / f"{name}.png", "wb") as stream:
            figure.savefig(stream, format="png")
    run = Run(folder, "report", {})
    for name, figure in figures.items():
        run.image(name, figure)
    run.close()
    return list(figures)


def everything(folder, table):
    """The rows of this run, followed by those of configs that earlier calls finished in the same folder."""
    others = []
    for path in sorted((folder / "runs").glob("*/result.json")):
        if path.parent.name not in set(table["config_id"]):
            try:
                content = files.read_json(path)
            except ValueError:
                continue  # named and recomputed when it is asked for again
            if content["config_id"] != path.parent.name:
                continue  # copied from another config's folder
            # JSON has lists where a config has tuples
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content["config"].items()}
            row = {"config_id": content["config_id"], **fields, **content["measures"]}
            others.append({**row, "seconds": content["seconds"]})
    return pd.concat([table, pd.DataFrame(others)], ignore_index=True) if others else table


def print_report(folder, experiment, summary, verdict, diverged, figures, board):
    print(f"\nClaim    {experiment.CLAIM.sentence} ({experiment.CLAIM.source})\n")
    print(summary.to_string(index=False))
    if diverged:
        print(f"\n{diverged} configs diverged: see report.md")
    print(f"\nVerdict  {verdict}\nTest     {verdict.test}\n")
    print(f"Report   {folder / 'report.md'}")
    print(f"Figures  {', '.join(str(Path(folder) / 'figures' / f'{name}.png') for name in figures)}")
    print(f"Board    {board}")
