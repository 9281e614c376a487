"""What routing learned: which widths a DyDiT opens at each timestep, and which tokens pass its MLPs while it samples.

Widths depend on the timestep alone, so that the routers are asked at every timestep and the answer is exact. Tokens
depend on the image: they are observed over a guided sampling run, as sums, so that memory does not grow with maps of
images that nobody looks at.

Shape letters: T = 1000 timesteps, S steps of the run, B branches of guidance (conditional, then unconditional; one
without guidance), N images (M of them shown), L layers (blocks), H heads and channel groups, G side of the token grid.
"""

from __future__ import annotations

from typing import Any

from bench.generation.job import GenerationOptions, generation_identity
from bench.machine import arithmetic
from bench.records import environment_record, portable, prepare_output, write_run, write_table
from bench.routing.learned import Learned, write_arrays
from bench.routing.observation import observe, prepare_study
from dydit.checkpoint.atomic import atomic_path


def study_routing(options: GenerationOptions) -> tuple[Learned, dict[str, Any]]:
    """Study a checkpoint and write arrays, tables, figures and findings to `options.out`.

    Args:
        options: as for generation, of which `engine` and `png` are not used: what is observed is the masked forward.

    Returns:
        The arrays, and the record that was written.

    Raises:
        InputError: as `prepare`, or an output directory that cannot be written; before any long work.
    """
    from bench.routing.figures import write_figures
    from bench.routing.findings import routing_findings
    from bench.routing.tables import routing_tables

    directory = prepare_output(options.out)
    with arithmetic(options.threads, options.tf32):
        job = prepare_study(options)
        record = environment_record(
            checkpoint=portable(options.checkpoint),
            images=options.images,
            sampling=generation_identity(job),
        )
        learned = observe(options, job)
    write_arrays(learned, directory / "routing.npz")
    for name, table in routing_tables(learned).items():
        write_table(table, directory, name)
    figures = "\n".join(f"![{path.stem}]({path.name})\n" for path in write_figures(learned, directory))
    with atomic_path(directory / "findings.md") as partial:
        partial.write_text(f"{routing_findings(learned, record)}\n{figures}", encoding="utf-8")
    write_run(record, directory)
    return learned, record
