"""Reading a dataset: what there is (`index`), what a series holds (`series`), which series and labels make a
session (`grouping`, `labelling`, `sessions`), and how the protocol varies (`deviations`). `somite.plan` puts
them together."""
