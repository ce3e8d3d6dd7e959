"""Export: what a student needs to be served, and the versions that come of it.

`exporting` makes a version of a trained student: `servable` is the model in it,
`parity` compares it with the live one in a `fresh_process`, `publishing` gives it its
name. `reindex` swaps the items of a version, `releases` moves labels between versions,
`on_device` exports the query tower alone.
"""
