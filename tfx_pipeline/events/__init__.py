"""Raw events to shown lists, without a look into the future: an Apache Beam job over Arrow tables.

`config` is the mapping file, `tables` the canonical columns; `in_process.build` runs the rules on
tables in memory, and `job.run` the whole thing on files. docs/events.md has every rule.
"""
