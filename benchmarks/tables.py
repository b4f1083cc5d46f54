"""Tables in Markdown, printed row by row as they are measured: what benchmarks/keep.py keeps and pages quote."""


def head(*columns: str) -> None:
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
