"""What a run leaves and goes on from: environment, tables, run record, run directory, checksums; where files lie.

Uses machine.
"""

from bench.records.archives import (
    array_header,
    array_names,
    member_header,
    open_archive,
    read_array,
    read_arrays,
    read_member,
)
from bench.records.checksums import check_listed, file_sha256, tensors_sha256
from bench.records.environment import (
    environment_record,
    job_facts,
    machine_name,
    portable,
    printable,
    provenance,
    tf32_flags,
)
from bench.records.places import PACKAGE, ROOT, installed, shipped_data, user_data
from bench.records.results import Results, take_results
from bench.records.run_directory import (
    ALL_FILES,
    check_disk,
    check_same_run,
    clear_write_errors,
    take_directory,
    whole_file,
)
from bench.records.run_record import RUN, check_schema, read_json, read_kept, read_run, write_json
from bench.records.tables import clear_content_errors, parse_table, read_table, to_markdown, write_table
from bench.records.toml_tables import from_table, read_toml

__all__ = [
    "ALL_FILES",
    "PACKAGE",
    "ROOT",
    "RUN",
    "Results",
    "array_header",
    "array_names",
    "check_disk",
    "check_listed",
    "check_same_run",
    "check_schema",
    "clear_content_errors",
    "clear_write_errors",
    "environment_record",
    "file_sha256",
    "from_table",
    "installed",
    "job_facts",
    "machine_name",
    "member_header",
    "open_archive",
    "parse_table",
    "portable",
    "printable",
    "provenance",
    "read_array",
    "read_arrays",
    "read_json",
    "read_kept",
    "read_member",
    "read_run",
    "read_table",
    "read_toml",
    "shipped_data",
    "take_directory",
    "take_results",
    "tensors_sha256",
    "tf32_flags",
    "to_markdown",
    "user_data",
    "whole_file",
    "write_json",
    "write_table",
]
