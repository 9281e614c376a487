"""What routing learned: which widths a DyDiT opens at each timestep, and which tokens pass its MLPs while it samples.

Widths depend on the timestep alone: the width routers run at every timestep, and the result is exact. Tokens depend on
the image: they are observed over a guided sampling run and summed, so that memory does not grow with the images.

Shape letters: T = 1000 timesteps, S steps of the run, B branches of guidance (conditional, then unconditional; one
without guidance), N images (M of them shown), L layers (blocks), H heads and channel groups, G side of the token grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.generation.job import GenerationOptions, generation_identity
from bench.machine import arithmetic
from bench.records import environment_record, portable, take_results
from bench.routing.learned import LearnedRouting, arrays
from bench.routing.observation import observe, prepare_observation


def measure_routing(options: GenerationOptions) -> tuple[LearnedRouting, dict[str, Any]]:
    """Observe the routing of a checkpoint, and write arrays, tables, figures and a description to `options.out`.

    Args:
        options: as for generation, of which `engine` and `png` are not used: what is observed is the masked forward.

    Returns:
        The arrays, and the record that was written.

    Raises:
        InputError: as `prepare_observation`, or an output directory that cannot be written; before any long work.
    """
    from bench.routing.description import describe_routing
    from bench.routing.figures import draw_figures, save_figure
    from bench.routing.tables import routing_tables

    with take_results(options.out) as results:
        with arithmetic(options.threads, options.tf32):
            job = prepare_observation(options)
            record = environment_record(
                checkpoint=portable(options.checkpoint),
                images=options.images,
                sampling=generation_identity(job),
            )
            learned = observe(options, job)
        with results.new_file("routing.npz") as path:
            np.savez_compressed(path, **arrays(learned))
        for name, table in routing_tables(learned).items():
            results.write_table(table, name)
        drawn = draw_figures(learned)
        for name, figure in drawn.items():
            with results.new_file(f"{name}.png") as path:
                save_figure(figure, path)
        figures = "\n".join(f"![{name}]({name}.png)\n" for name in drawn)
        with results.new_file("findings.md") as path:
            path.write_text(f"{describe_routing(learned, record)}\n{figures}", encoding="utf-8")
        results.write_record(record)
    return learned, record
