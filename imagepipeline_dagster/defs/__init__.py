"""The Dagster definitions: one file a stage, named after its asset, in the order of the flow.

`source_tables` → `prompt_sets` → `generation_requests` → `generated_images` → `moderated_images` →
`image_dataset` → `hub_dataset`, and apart from them `drift_canaries`

- `stage`: what a stage is. `batches`: many sets made in one run.
- `moderation_checks`: the checks of the verdicts, beside their asset.
- `sensors`, `moderation_sensor`, `release_sensor`, `schedules`: they start runs.
- `alert_sensors`: they tell people.
- `registration` of the sets, `plans` and their approval: they come before paying.
- `dataset`: the options of one. `metadata`, `plan_metadata`, `moderation_metadata`: what it shows.
- `column_lineage`: where each column comes from.
- `resource_keys`: its resources, apart from others'. `sensor_resources`: those of cheap ticks.
- `stored_sets`: the tables that a release reads. `stopped_sets`: those that
  a team's checks keep out of it.
- `under_way`: what Dagster is busy with. `internals`: what it has no public name for.

`definitions` puts one dataset together.
"""
